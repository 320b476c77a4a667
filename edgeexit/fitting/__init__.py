"""From readouts, labels and stage costs to a policy document with a certificate."""

from edgeexit.fitting.certify import samples_needed
from edgeexit.fitting.choose import Candidate, Choice, choose_policy
from edgeexit.fitting.evidence import Evidence, MapLosses
from edgeexit.fitting.fit import expect, fit_policy, fit_thresholds
from edgeexit.fitting.goals import BeemRule, Budget, Expectation, Fit, Goal, MaxDrop, MaxRisk
from edgeexit.fitting.risk import lower_bound, upper_bound

__all__ = [
    "BeemRule",
    "Budget",
    "Candidate",
    "Choice",
    "Evidence",
    "Expectation",
    "Fit",
    "Goal",
    "MapLosses",
    "MaxDrop",
    "MaxRisk",
    "choose_policy",
    "expect",
    "fit_policy",
    "fit_thresholds",
    "lower_bound",
    "samples_needed",
    "upper_bound",
]

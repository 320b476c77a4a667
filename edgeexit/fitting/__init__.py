"""From readouts, labels and stage costs to a policy document with a certificate."""

from edgeexit.fitting.certify import samples_needed
from edgeexit.fitting.evidence import Evidence, MapLosses
from edgeexit.fitting.fit import expect, fit_policy, fit_thresholds
from edgeexit.fitting.goals import Budget, Expectation, Fit, Goal, MaxDrop, MaxRisk
from edgeexit.fitting.risk import lower_bound, upper_bound

__all__ = [
    "Budget",
    "Evidence",
    "Expectation",
    "Fit",
    "Goal",
    "MapLosses",
    "MaxDrop",
    "MaxRisk",
    "expect",
    "fit_policy",
    "fit_thresholds",
    "lower_bound",
    "samples_needed",
    "upper_bound",
]

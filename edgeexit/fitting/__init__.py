"""From readouts, labels and stage costs to a policy document with a certificate."""

from edgeexit.fitting.certify import samples_needed
from edgeexit.fitting.choose import Choice, KindComparison, choose_policy
from edgeexit.fitting.fit import expect, fit_policy, fit_thresholds
from edgeexit.fitting.goals import BeemRule, Budget, Expectation, Fit, Goal, MaxDrop, MaxRisk
from edgeexit.fitting.readout_dataset import MapLosses, ReadoutDataset
from edgeexit.fitting.risk import lower_bound, upper_bound

__all__ = [
    "BeemRule",
    "Budget",
    "Choice",
    "Expectation",
    "Fit",
    "Goal",
    "KindComparison",
    "MapLosses",
    "MaxDrop",
    "MaxRisk",
    "ReadoutDataset",
    "choose_policy",
    "expect",
    "fit_policy",
    "fit_thresholds",
    "lower_bound",
    "samples_needed",
    "upper_bound",
]

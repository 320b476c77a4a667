"""Fits policies to readouts, labels and stage costs. A fit for a risk also returns a certificate."""

from edgeexit.fitting.certify import samples_needed
from edgeexit.fitting.choose import Choice, KindComparison, choose_policy
from edgeexit.fitting.fit import expect, fit_by_rule, fit_policy, fit_thresholds
from edgeexit.fitting.goals import Budget, Expectation, Fit, Goal, KindRule, MaxDrop, MaxRisk
from edgeexit.fitting.kinds import FITTING_KINDS, FittingKind, register_fitting_kind, require_fitting_kind
from edgeexit.fitting.options import FitOptions
from edgeexit.fitting.readout_dataset import MapLosses, ReadoutDataset
from edgeexit.fitting.risk import lower_bound, upper_bound

__all__ = [
    "FITTING_KINDS",
    "Budget",
    "Choice",
    "Expectation",
    "Fit",
    "FitOptions",
    "FittingKind",
    "Goal",
    "KindComparison",
    "KindRule",
    "MapLosses",
    "MaxDrop",
    "MaxRisk",
    "ReadoutDataset",
    "choose_policy",
    "expect",
    "fit_by_rule",
    "fit_policy",
    "fit_thresholds",
    "lower_bound",
    "register_fitting_kind",
    "require_fitting_kind",
    "samples_needed",
    "upper_bound",
]

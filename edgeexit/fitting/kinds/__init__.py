"""How each kind of policy is fitted: one module (or folder) per kind, listed in `registry`."""

from edgeexit.fitting.kinds.candidates import make_candidates
from edgeexit.fitting.kinds.kind import FittingKind, PublishedMethod, ThresholdRule
from edgeexit.fitting.kinds.registry import FITTING_KINDS, register_fitting_kind, require_fitting_kind

__all__ = [
    "FITTING_KINDS",
    "FittingKind",
    "PublishedMethod",
    "ThresholdRule",
    "make_candidates",
    "register_fitting_kind",
    "require_fitting_kind",
]

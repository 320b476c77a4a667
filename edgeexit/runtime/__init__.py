"""Runs a bundle stage by stage with early exits under a policy, and measures it."""

from edgeexit.backends.selection import make_backend
from edgeexit.runtime.evaluation import FULL_MODEL, Evaluation, LatencyFigures, evaluate, full_model_policy
from edgeexit.runtime.inference import EveryExitInference, Inference
from edgeexit.runtime.intervals import Interval
from edgeexit.runtime.profiler import profile_bundle
from edgeexit.runtime.recording import Recording, differing_fractions, record, record_outputs
from edgeexit.runtime.runner import NotFinite, Runner

__all__ = [
    "FULL_MODEL",
    "Evaluation",
    "EveryExitInference",
    "Inference",
    "Interval",
    "LatencyFigures",
    "NotFinite",
    "Recording",
    "Runner",
    "differing_fractions",
    "evaluate",
    "full_model_policy",
    "make_backend",
    "profile_bundle",
    "record",
    "record_outputs",
]

"""Run a bundle stage by stage, stopping by policy, and measure it."""

from edgeexit.runtime.evaluation import WHOLE_MODEL, Evaluation, LatencyFigures, evaluate, whole_model
from edgeexit.runtime.inference import EveryExit, Inference
from edgeexit.runtime.intervals import Interval
from edgeexit.runtime.profiler import profile_bundle
from edgeexit.runtime.recording import Recording, record, record_outputs
from edgeexit.runtime.registry import make_backend
from edgeexit.runtime.runner import NotFinite, Runner

__all__ = [
    "WHOLE_MODEL",
    "Evaluation",
    "EveryExit",
    "Inference",
    "Interval",
    "LatencyFigures",
    "NotFinite",
    "Recording",
    "Runner",
    "evaluate",
    "make_backend",
    "profile_bundle",
    "record",
    "record_outputs",
    "whole_model",
]

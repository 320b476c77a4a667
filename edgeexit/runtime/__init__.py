"""Run a bundle stage by stage, stopping by policy, and measure it."""

from edgeexit.runtime.backend import stand_in
from edgeexit.runtime.evaluation import WHOLE_MODEL, Evaluation, LatencyFigures, evaluate, whole_model
from edgeexit.runtime.intervals import Interval
from edgeexit.runtime.profiler import profile_bundle
from edgeexit.runtime.recording import Recording, record, record_outputs
from edgeexit.runtime.runner import EveryExit, Inference, Runner

__all__ = [
    "WHOLE_MODEL",
    "Evaluation",
    "EveryExit",
    "Inference",
    "Interval",
    "LatencyFigures",
    "Recording",
    "Runner",
    "evaluate",
    "profile_bundle",
    "record",
    "record_outputs",
    "stand_in",
    "whole_model",
]

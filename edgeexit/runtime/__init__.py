"""Run a bundle stage by stage, stopping by policy, and measure it."""

from edgeexit.runtime.backend import stand_in
from edgeexit.runtime.evaluation import Evaluation, Recording, evaluate, full_depth, record
from edgeexit.runtime.profiler import profile_bundle
from edgeexit.runtime.runner import EveryExit, Inference, Runner

__all__ = [
    "Evaluation",
    "EveryExit",
    "Inference",
    "Recording",
    "Runner",
    "evaluate",
    "full_depth",
    "profile_bundle",
    "record",
    "stand_in",
]

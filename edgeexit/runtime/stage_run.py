"""One stage of a batch and the policy's decision after it, with how long each took."""

import time
from typing import Final, NamedTuple

from edgeexit.backends.base import StagedBatch
from edgeexit.policies import Decision, Policy
from edgeexit.policies.readout import Array

MS_PER_NS: Final = 1e-6


class StageRun(NamedTuple):
    """What a stage and the policy said of a batch."""

    stage: int
    readout: Array
    """[B, 4], or [B, 4 + C]; valid as long as the batch is open."""
    decision: Decision
    stage_ms: float
    """Of the stage, readout included."""
    decide_ms: float
    decided: int
    """Moment of the decision, in ns of `time.perf_counter_ns`."""


def run_stage(staged: StagedBatch, policy: Policy, stage: int, state: Array) -> StageRun:
    """Run a batch's next stage, which is `stage`, and decide. Raises InferenceError where the runtime refuses."""
    started = time.perf_counter_ns()
    readout = staged.run(policy.temperatures[stage])
    ended = time.perf_counter_ns()
    decision = policy.decide(stage, readout, state)
    decided = time.perf_counter_ns()
    return StageRun(stage, readout, decision, (ended - started) * MS_PER_NS, (decided - ended) * MS_PER_NS, decided)

"""Runs one stage of a batch and the policy's decision after it, and measures the duration of both."""

import time
from typing import Final, NamedTuple

from edgeexit.backends.base import StagedBatch
from edgeexit.policies import Decision, Policy
from edgeexit.policies.readout import Array

MS_PER_NS: Final = 1e-6


class StageRun(NamedTuple):
    """Readout and decision of a batch after one stage."""

    stage: int
    readout: Array
    """[B, 4] or, with the probabilities of all classes, [B, 4 + C]. The array is valid while the batch is open."""
    decision: Decision
    stage_ms: float
    """Duration of the stage, readout included."""
    decide_ms: float
    """Duration of the policy's decision."""
    decided_ns: int
    """`time.perf_counter_ns` after the decision."""


def run_and_time(staged: StagedBatch, temperature: float) -> tuple[Array, int, int]:
    """Run the next stage of a batch; return its readout, and `time.perf_counter_ns` before and after the stage.

    Raises InferenceError if the runtime fails.
    """
    started_ns = time.perf_counter_ns()
    readout = staged.run(temperature)
    return readout, started_ns, time.perf_counter_ns()


def run_stage(staged: StagedBatch, policy: Policy, stage: int, state: Array) -> StageRun:
    """Run the next stage of a batch, and decide which samples exit. Raises InferenceError if the runtime fails.

    Args:
        staged: the batch.
        policy: makes the decision.
        stage: index of the batch's next stage.
        state: [B, S] the policy's state after the previous stage.

    """
    readout, started_ns, ended_ns = run_and_time(staged, policy.temperatures[stage])
    decision = policy.decide(stage, readout, state)
    decided_ns = time.perf_counter_ns()
    return StageRun(
        stage,
        readout,
        decision,
        (ended_ns - started_ns) * MS_PER_NS,
        (decided_ns - ended_ns) * MS_PER_NS,
        decided_ns,
    )

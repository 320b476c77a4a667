"""Runs a single sample stage by stage, with fewer objects and numpy calls than a batch."""

from collections.abc import Mapping
from math import nan
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import StagedBatch
from edgeexit.policies import Policy
from edgeexit.policies.readout import COLUMNS
from edgeexit.runtime.inference import Inference
from edgeexit.runtime.stage_run import MS_PER_NS

_COLUMNS = len(COLUMNS)
_INT64, _FLOAT32 = np.dtype(np.int64), np.dtype(np.float32)  # faster than the types, which numpy converts to these


class SingleRun:
    """A single sample on its way through the stages; results equal those of a batch of one.

    A stage evicts Python's code and data from the inner caches of the processor. So an object or a numpy call between
    two stages takes up to ten times as long as in a loop.

    Attributes:
        stage: index of the next stage.
        state: [1, S] the policy's state after the stages so far.
        scores: the score at each exit reached.
        stage_ms: duration of each stage so far.
        decide_ms: duration of the decision after each of these stages.
        decided_ns: `time.perf_counter_ns` after the last decision.

    """

    def __init__(self, staged: StagedBatch, policy: Policy) -> None:
        self._staged = staged
        self._policy = policy
        self._readout: npt.NDArray[np.float32]
        self._prediction = nan
        self.stage = 0
        self.state = policy.initial_state(1)
        self.scores: list[float] = []
        self.stage_ms: list[float] = []
        self.decide_ms: list[float] = []
        self.decided_ns = 0

    def advance(self) -> bool:
        """Run the next stage; return whether the sample exits. Raises InferenceError if the runtime fails."""
        policy, stage = self._policy, self.stage
        started_ns = perf_counter_ns()
        self._readout = readout = self._staged.run(policy.temperatures[stage])
        ended_ns = perf_counter_ns()
        exits, score, self._prediction, self.state = policy.decide_single(stage, readout, self.state)
        self.decided_ns = decided_ns = perf_counter_ns()
        self.stage = stage + 1
        self.scores.append(score)
        self.stage_ms.append((ended_ns - started_ns) * MS_PER_NS)
        self.decide_ms.append((decided_ns - ended_ns) * MS_PER_NS)
        return exits

    def result(self, *, companions: Mapping[str, npt.NDArray[Any]], started_ns: int) -> Inference:
        """Return the inference, once the sample has exited.

        `companions` [1, ...] of the exit taken are copied; the latency counts from `started_ns`.
        """
        policy, readout = self._policy, self._readout
        scores = self.scores + [nan] * (len(policy.temperatures) - self.stage)
        return Inference(
            predictions=np.array((int(self._prediction),), dtype=_INT64),
            exits=np.array((self.stage - 1,), dtype=_INT64),
            outputs=self._staged.outputs().copy(),
            readouts=(readout[:, :_COLUMNS] if policy.reads_probabilities else readout).copy(),
            scores=np.array((scores,), dtype=_FLOAT32),
            latency_ms=np.array(((self.decided_ns - started_ns) * MS_PER_NS,)),
            stage_ms=tuple(self.stage_ms),
            decide_ms=tuple(self.decide_ms),
            companions={name: array.copy() for name, array in companions.items()} if companions else {},
        )

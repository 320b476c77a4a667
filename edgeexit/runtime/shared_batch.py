"""Requests of the scheduler, and the batches in which samples of several requests run together."""

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import Rows, StagedBatch
from edgeexit.policies import Policy
from edgeexit.policies.readout import Array
from edgeexit.runtime.inference import Inference, InferenceBuilder, continuing_rows
from edgeexit.runtime.single_run import SingleRun
from edgeexit.runtime.stage_run import MS_PER_NS, StageRun

Tensors = Mapping[str, npt.NDArray[Any]]
_BatchKey = tuple[int, tuple[tuple[int, ...], ...]]
"""Samples with equal keys may share a batch: same policy object, same input shapes except for the batch dimension."""


class PendingRequest:
    """One call of `submit`: its future, and its results as its samples exit."""

    def __init__(self, samples: int, exits: int, policy: Policy) -> None:
        self.samples = samples
        self.policy = policy
        self.future: Future[Inference] = Future()
        self.submitted_ns = time.perf_counter_ns()
        self._exits = exits
        self._unfinished = samples
        self._stage_ms: list[float] = []
        self._decide_ms: list[float] = []
        self._active: bool | None = None

    def start(self) -> bool:
        """Mark the request as running. Return False if it was cancelled before its first sample ran, or has failed."""
        if self._active is None:
            self._active = self.future.set_running_or_notify_cancel()
        return self._active

    @functools.cached_property
    def _builder(self) -> InferenceBuilder:
        return InferenceBuilder(self.samples, self._exits)

    def finish(self, result: Inference) -> None:
        """Set the future's result."""
        with contextlib.suppress(InvalidStateError):  # the request failed before
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Set the future's exception. Results of its samples that are still in progress are discarded."""
        self._active = False
        with contextlib.suppress(InvalidStateError):  # the future is done or cancelled
            self.future.set_exception(error)

    def resume(self, run: SingleRun) -> None:
        """Store the results of the stages that the request's only sample has run alone."""
        self._stage_ms, self._decide_ms = run.stage_ms, run.decide_ms
        for exit_index, score in enumerate(run.scores):
            self._builder.add_scores(exit_index, np.arange(1), np.array((score,), dtype=np.float32))

    def add(
        self, run: StageRun, outputs: Array | None, companions: Tensors, rows: list[int], positions: Rows
    ) -> Inference | None:
        """Store the results of one stage, and of the decision after it, for samples of this request.

        Returns the inference if no sample continues.

        Args:
            run: results of the stage, with the decision after it.
            outputs: raw outputs of the batch; None if no sample of the batch exits.
            companions: companions of the batch; empty if no sample of the batch exits.
            rows: rows of this request's samples in the batch.
            positions: [n] positions of the same samples in this request.

        """
        if run.stage == len(self._stage_ms):
            self._stage_ms.append(0.0)
            self._decide_ms.append(0.0)
        self._stage_ms[run.stage] += run.stage_ms
        self._decide_ms[run.stage] += run.decide_ms
        self._builder.add_scores(run.stage, positions, run.decision.score[rows])
        exited = [index for index, row in enumerate(rows) if run.decision.exit_mask[row]]
        if outputs is None or not exited:
            return None
        latency_ms = (run.decided_ns - self.submitted_ns) * MS_PER_NS
        self._builder.add_exited(
            run,
            positions[exited],
            np.array(rows)[exited],
            outputs=outputs,
            latency_ms=latency_ms,
            companions=companions,
        )
        self._unfinished -= len(exited)
        return None if self._unfinished else self._builder.build(self._stage_ms, self._decide_ms)


class RequestChunk:
    """At most `max_batch` samples of one request that wait for stage 0."""

    def __init__(self, request: PendingRequest, tensors: Tensors, positions: Rows, key: _BatchKey) -> None:
        self.request = request
        self.tensors = tensors
        self.positions = positions
        self.key = key


class SharedBatch:
    """Samples of one or several requests that run their next stage together."""

    def __init__(self, chunks: Sequence[RequestChunk], staged: StagedBatch, alone: SingleRun | None = None) -> None:
        """Make a batch of chunks that wait for stage 0, or of one sample that has run `alone` and not exited."""
        self.key = chunks[0].key
        self.policy = chunks[0].request.policy
        self.staged = staged
        self.stage = 0
        self.requests = [chunk.request for chunk in chunks for _ in chunk.positions]
        """The request of each row."""
        self.positions = np.concatenate([chunk.positions for chunk in chunks])
        """The position of each row in its request."""
        self.state = self.policy.initial_state(len(self.positions))
        self.waiting_since_ns = 0
        """Time of the decision after the previous stage. `join` does not change it."""
        if alone is not None:
            self.requests[0].resume(alone)
            self.stage, self.state, self.waiting_since_ns = alone.stage, alone.state, alone.decided_ns

    def move_to_next_stage(self, run: StageRun) -> None:
        """Remove the samples that exited after `run`; the others wait for the next stage."""
        self.state = run.decision.state
        if run.decision.exit_mask.any():
            rows = continuing_rows(run.decision.exit_mask)
            self.staged.select_rows(rows)
            self.requests = [self.requests[row] for row in rows]
            self.positions, self.state = self.positions[rows], self.state[rows]
        self.stage += 1
        self.waiting_since_ns = run.decided_ns

    def close(self) -> None:
        """Release the memory of the batch."""
        self.staged.__exit__(None, None, None)

    def join(self, other: "SharedBatch") -> None:
        """Append another batch that waits for the same stage."""
        state = np.concatenate([self.state, other.state])  # before `staged.join`, which closes the memory of `other`
        self.staged.join(other.staged)
        self.state = state
        self.requests += other.requests
        self.positions = np.concatenate([self.positions, other.positions])

    def rows_by_request(self) -> dict[PendingRequest, list[int]]:
        """Return request -> its rows in this batch."""
        rows: dict[PendingRequest, list[int]] = {}
        for row, request in enumerate(self.requests):
            rows.setdefault(request, []).append(row)
        return rows

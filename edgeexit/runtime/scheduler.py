"""Runs many concurrent requests: samples that wait for the same stage run as one batch, with a bounded delay.

One thread runs the stages, one at a time, whenever samples wait. New samples wait for stage 0. While new requests
arrive, samples that continue wait at their stage for others to join them, so batches of the later stages become larger.
A batch that has waited `max_delay_ms` since its previous stage runs next.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import Rows, StageBackend, StagedBatch
from edgeexit.errors import InferenceError, OverloadedError
from edgeexit.policies import Policy
from edgeexit.policies.readout import Array
from edgeexit.runtime.fork import fail_future
from edgeexit.runtime.inference import Inference, InferenceBuilder, continuing_rows
from edgeexit.runtime.stage_run import MS_PER_NS, StageRun, run_stage

CLOSE_TIMEOUT_S: Final = 10.0
"""Max time for which `close` waits for a running stage."""

_log = logging.getLogger(__name__)
_Tensors = Mapping[str, npt.NDArray[Any]]
_BatchKey = tuple[int, tuple[tuple[int, ...], ...]]
"""Samples with equal keys may share a batch: same policy object, same input shapes except for the batch dimension."""


class _PendingRequest:
    """One call of `submit`: its future, and its results as its samples exit."""

    def __init__(self, samples: int, exits: int, policy: Policy) -> None:
        self.policy = policy
        self.future: Future[Inference] = Future()
        self.submitted_ns = time.perf_counter_ns()
        self._builder = InferenceBuilder(samples, exits)
        self._unfinished = samples
        self._stage_ms: list[float] = []
        self._decide_ms: list[float] = []
        self._active: bool | None = None

    def start(self) -> bool:
        """Mark the request as running. Return False if it was cancelled before its first sample ran, or has failed."""
        if self._active is None:
            self._active = self.future.set_running_or_notify_cancel()
        return self._active

    def fail(self, error: BaseException) -> None:
        """Set the future's exception. Results of its samples that are still in progress are discarded."""
        self._active = False
        with contextlib.suppress(InvalidStateError):  # the future is done or cancelled
            self.future.set_exception(error)

    def add(self, run: StageRun, outputs: Array | None, companions: _Tensors, rows: list[int], positions: Rows) -> None:
        """Store the results of one stage, and of the decision after it, for samples of this request.

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
            return
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
        if not self._unfinished:
            with contextlib.suppress(InvalidStateError):  # the request failed before
                self.future.set_result(self._builder.build(self._stage_ms, self._decide_ms))


class _RequestChunk:
    """At most `max_batch` samples of one request that wait for stage 0."""

    def __init__(self, request: _PendingRequest, tensors: _Tensors, positions: Rows, key: _BatchKey) -> None:
        self.request = request
        self.tensors = tensors
        self.positions = positions
        self.key = key


class _SharedBatch:
    """Samples of one or several requests that run their next stage together."""

    def __init__(self, chunks: Sequence[_RequestChunk], staged: StagedBatch) -> None:
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

    def join(self, other: "_SharedBatch") -> None:
        """Append another batch that waits for the same stage."""
        state = np.concatenate([self.state, other.state])  # before `staged.join`, which closes the memory of `other`
        self.staged.join(other.staged)
        self.state = state
        self.requests += other.requests
        self.positions = np.concatenate([self.positions, other.positions])

    def rows_by_request(self) -> dict[_PendingRequest, list[int]]:
        """Return request -> its rows in this batch."""
        rows: dict[_PendingRequest, list[int]] = {}
        for row, request in enumerate(self.requests):
            rows.setdefault(request, []).append(row)
        return rows


class Scheduler:
    """Runs the stages for all requests, in a separate thread.

    Args:
        backend: an opened backend.
        exits: number of exits K.
        has_companions: whether the bundle has companion outputs.
        max_delay_ms: longest time for which a batch waits at a stage while new samples run, so that others can join it.
            A stage that is running when the time ends is not interrupted.
        max_waiting: maximum number of samples in progress. A request that would exceed it is refused, unless no other
            sample is in progress.

    """

    def __init__(
        self, backend: StageBackend, exits: int, *, has_companions: bool, max_delay_ms: float, max_waiting: int
    ) -> None:
        self._backend = backend
        self._exits = exits
        self._has_companions = has_companions
        self._max_delay_ns = max_delay_ms / MS_PER_NS
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._new: deque[_RequestChunk] = deque()
        self._batches: list[_SharedBatch] = []
        """Batches past stage 0. Only the scheduler's thread uses this list."""
        self._pending: set[_PendingRequest] = set()
        self._in_progress = 0
        """Number of samples that were submitted and have not exited."""
        self._stages_run = 0
        self._closing = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="stage-scheduler", daemon=True)
        self._thread.start()

    def submit(self, tensors: _Tensors, policy: Policy) -> Future[Inference]:
        """Copy a batch that the caller has checked, and queue it. Return the future of its inference.

        Raises OverloadedError if more than `max_waiting` samples would be in progress, and InferenceError if the
        scheduler is closed.
        """
        samples = len(next(iter(tensors.values())))
        key = (id(policy), tuple(array.shape[1:] for array in tensors.values()))
        request = _PendingRequest(samples, self._exits, policy)
        chunks = [
            _RequestChunk(request, {name: array[positions] for name, array in tensors.items()}, positions, key)
            for positions in np.array_split(np.arange(samples), -(-samples // self._backend.max_batch))
        ]
        with self._changed:
            if self._closing:
                raise InferenceError("the runner is closed and accepts no samples")
            if self._in_progress and self._in_progress + samples > self._max_waiting:
                raise OverloadedError(
                    f"{self._in_progress} samples are in progress and {samples} more would exceed max_waiting = "
                    f"{self._max_waiting}; try again later"
                )
            self._in_progress += samples
            self._new.extend(chunks)
            self._pending.add(request)
            self._changed.notify()
        request.future.add_done_callback(lambda _: self._pending.discard(request))
        return request.future

    def close(self) -> None:
        """Finish all submitted requests, and end the thread.

        If a stage does not end within `CLOSE_TIMEOUT_S`, the unfinished requests fail with InferenceError, and the
        thread is abandoned.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        while self._thread.is_alive():
            before = self._stages_run
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive() and self._stages_run == before:
                self._abandon()
                return

    def _abandon(self) -> None:
        """Fail all unfinished requests. The thread ends by itself if its stage ever returns."""
        with self._changed:
            self._abandoned = True
            self._new.clear()
            pending = list(self._pending)
        reason = f"a stage has not ended for {CLOSE_TIMEOUT_S:g} s; the runner was closed without waiting for it"
        _log.warning("%s; %d requests failed", reason, len(pending))
        for request in pending:
            request.fail(InferenceError(reason))

    def fail_after_fork(self, reason: str) -> None:
        """Fail all unfinished requests in a child process, in which the thread does not run."""
        for request in list(self._pending):
            fail_future(request.future, InferenceError(reason))

    def _work(self) -> None:
        """Run stages until the scheduler is closed and no samples wait."""
        while True:
            with self._changed:
                while not (self._new or self._batches or self._closing):
                    self._changed.wait()
                has_new = bool(self._new)
            if self._abandoned:
                for batch in self._batches:
                    batch.close()
                return
            if not (has_new or self._batches):
                return
            next_batch = self._take_batch(has_new=has_new)
            if next_batch is not None:
                self._advance(next_batch)
            elif chunks := self._take_new():
                self._begin(chunks)

    def _take_batch(self, *, has_new: bool) -> _SharedBatch | None:
        """Remove and return the waiting batch that runs next; None if new samples run first."""
        now_ns, max_batch = time.perf_counter_ns(), self._backend.max_batch
        due = [
            batch
            for batch in self._batches
            if now_ns - batch.waiting_since_ns >= self._max_delay_ns or len(batch.positions) == max_batch
        ]
        if due:
            chosen = min(due, key=lambda batch: batch.waiting_since_ns)
        elif has_new:
            return None
        else:  # the batch at the earliest stage: its samples can then join batches at later stages
            chosen = min(self._batches, key=lambda batch: batch.stage)
        self._batches.remove(chosen)
        return chosen

    def _take_new(self) -> list[_RequestChunk]:
        """Remove and return the oldest new chunks that can share a batch, without those of cancelled requests."""
        chunks: list[_RequestChunk] = []
        free_rows = self._backend.max_batch
        with self._changed:
            while self._new and len(self._new[0].positions) <= free_rows:
                if chunks and self._new[0].key != chunks[0].key:
                    break
                chunk = self._new.popleft()
                if chunk.request.start():
                    chunks.append(chunk)
                    free_rows -= len(chunk.positions)
                else:
                    self._in_progress -= len(chunk.positions)
        return chunks

    def _begin(self, chunks: Sequence[_RequestChunk]) -> None:
        """Make one batch of new chunks, and run its stage 0."""
        policy = chunks[0].request.policy
        try:
            tensors = {
                name: np.concatenate([chunk.tensors[name] for chunk in chunks]) if len(chunks) > 1 else array
                for name, array in chunks[0].tensors.items()
            }
            staged = self._backend.begin(tensors, probabilities=policy.reads_probabilities)
        except Exception as error:  # noqa: BLE001 - the futures of these requests raise it; other requests continue
            for chunk in chunks:
                chunk.request.fail(error)
            self._release(sum(len(chunk.positions) for chunk in chunks))
            return
        self._advance(_SharedBatch(chunks, staged))

    def _advance(self, batch: _SharedBatch) -> None:
        """Run the next stage of a batch, store the results of samples that exit, and queue the others."""
        remaining = len(batch.requests)
        try:
            run = run_stage(batch.staged, batch.policy, batch.stage, batch.state)
            self._stages_run += 1
            # Outputs are read only if needed: they may have to be copied from a GPU.
            outputs = batch.staged.outputs() if run.decision.exit_mask.any() else None
            companions = batch.staged.companions() if self._has_companions and outputs is not None else {}
            for request, rows in batch.rows_by_request().items():
                request.add(run, outputs, companions, rows, batch.positions[rows])
            exited = int(np.count_nonzero(run.decision.exit_mask))
            self._release(exited)
            remaining -= exited
            if remaining:
                batch.move_to_next_stage(run)
                self._queue(batch)
            else:
                batch.close()
        except Exception as error:  # noqa: BLE001 - the futures of these requests raise it; other requests continue
            for request in set(batch.requests):
                request.fail(error)
            self._release(remaining)
            batch.close()

    def _queue(self, batch: _SharedBatch) -> None:
        """Append a batch to a waiting batch with the same stage and key; if none has room, let it wait by itself."""
        for other in self._batches:
            if (
                other.stage == batch.stage
                and other.key == batch.key
                and len(other.positions) + len(batch.positions) <= self._backend.max_batch
            ):
                other.join(batch)
                return
        self._batches.append(batch)

    def _release(self, samples: int) -> None:
        with self._changed:
            self._in_progress -= samples

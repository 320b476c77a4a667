"""Runs many concurrent requests: samples that wait for the same stage run as one batch, with a bounded delay.

One thread runs the stages, one at a time, whenever samples wait. New samples wait for stage 0. While new requests
arrive, samples that continue wait at their stage for others to join them, so batches of the later stages become larger.
A batch that has waited `max_delay_ms` since its previous stage runs next.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

import numpy as np

from edgeexit.backends.base import StageBackend, StagedBatch
from edgeexit.errors import InferenceError, OverloadedError
from edgeexit.policies import Policy
from edgeexit.runtime.fork import fail_future
from edgeexit.runtime.inference import Inference
from edgeexit.runtime.shared_batch import PendingRequest, RequestChunk, SharedBatch, Tensors
from edgeexit.runtime.single_run import SingleRun
from edgeexit.runtime.stage_run import MS_PER_NS, run_stage

CLOSE_TIMEOUT_S: Final = 10.0
"""Max time for which `close` waits for a running stage."""

_log = logging.getLogger(__name__)


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
        self._new: deque[RequestChunk] = deque()
        self._batches: list[SharedBatch] = []
        """Batches past stage 0. Only the scheduler's thread uses this list."""
        self._pending: set[PendingRequest] = set()
        self._in_progress = 0
        """Number of samples that were submitted and have not exited."""
        self._stages_run = 0
        self._closing = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="stage-scheduler", daemon=True)
        self._thread.start()

    def submit(self, tensors: Tensors, policy: Policy) -> Future[Inference]:
        """Copy a batch that the caller has checked, and queue it. Return the future of its inference.

        Raises OverloadedError if more than `max_waiting` samples would be in progress, and InferenceError if the
        scheduler is closed.
        """
        samples, max_batch = len(next(iter(tensors.values()))), self._backend.max_batch
        key = (id(policy), tuple([array.shape[1:] for array in tensors.values()]))
        request = PendingRequest(samples, self._exits, policy)
        positions = np.arange(samples)
        parts = [positions] if samples <= max_batch else np.array_split(positions, -(-samples // max_batch))
        chunks = [
            RequestChunk(
                request, {name: array[part[0] : part[-1] + 1].copy() for name, array in tensors.items()}, part, key
            )
            for part in parts
        ]
        with self._changed:
            if self._closing:
                raise InferenceError("the runner is closed and accepts no samples")
            if self._in_progress and self._in_progress + samples > self._max_waiting:
                raise OverloadedError(
                    f"samples in progress: {self._in_progress}; {samples} more would exceed max_waiting = "
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

    def _take_batch(self, *, has_new: bool) -> SharedBatch | None:
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

    def _take_new(self) -> list[RequestChunk]:
        """Remove and return the oldest new chunks that can share a batch, without those of cancelled requests."""
        chunks: list[RequestChunk] = []
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

    def _begin(self, chunks: Sequence[RequestChunk]) -> None:
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
        if len(chunks) == 1 and chunks[0].request.samples == 1 and not self._batches:
            self._run_alone(chunks[0], staged)
        else:
            self._advance(SharedBatch(chunks, staged))

    def _run_alone(self, chunk: RequestChunk, staged: StagedBatch) -> None:
        """Run all stages of a single sample, which takes less time than in a batch.

        If new samples arrive meanwhile, and batches wait for others, the sample waits in a batch for its next stage.
        """
        request = chunk.request
        result: Inference | None = None
        failure: Exception | None = None
        try:
            run, exits = SingleRun(staged, request.policy), False
            while not exits:  # always True at the final exit
                exits = run.advance()
                self._stages_run += 1
                if not exits and (self._abandoned or (self._new and self._max_delay_ns)):
                    self._batches.append(SharedBatch([chunk], staged, run))
                    return
            companions = staged.companions() if self._has_companions else {}
            result = run.result(companions=companions, started_ns=request.submitted_ns)
            staged.__exit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - the future of this request raises it; other requests continue
            failure = error
            staged.__exit__(None, None, None)
        self._release(1)
        if result is not None:
            request.finish(result)
        if failure is not None:
            request.fail(failure)  # keeps the result if only closing failed

    def _advance(self, batch: SharedBatch) -> None:
        """Run the next stage of a batch, store the results of samples that exit, and queue the others."""
        remaining = len(batch.requests)
        failure: Exception | None = None
        finished: list[tuple[PendingRequest, Inference]] = []
        try:
            run = run_stage(batch.staged, batch.policy, batch.stage, batch.state)
            self._stages_run += 1
            # Outputs are read only if needed: they may have to be copied from a GPU.
            outputs = batch.staged.outputs() if run.decision.exit_mask.any() else None
            companions = batch.staged.companions() if self._has_companions and outputs is not None else {}
            for request, rows in batch.rows_by_request().items():
                result = request.add(run, outputs, companions, rows, batch.positions[rows])
                if result is not None:
                    finished.append((request, result))
            exited = int(np.count_nonzero(run.decision.exit_mask))
            self._release(exited)
            remaining -= exited
            if remaining:
                batch.move_to_next_stage(run)
                self._queue(batch)
            else:
                batch.close()
        except Exception as error:  # noqa: BLE001 - the futures of these requests raise it; other requests continue
            failure = error
            self._release(remaining)
            batch.close()
        # Last, because the threads that wait for the results compete with this one for the interpreter.
        for request, result in finished:
            request.finish(result)
        if failure is not None:
            for request in set(batch.requests):  # those that are finished already keep their result
                request.fail(failure)

    def _queue(self, batch: SharedBatch) -> None:
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

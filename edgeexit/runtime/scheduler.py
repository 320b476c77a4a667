"""Many requests at once: what waits at the same stage runs as one batch, and nobody is passed over for long.

One thread runs the stages, one at a time, and never rests while something waits. What comes in waits for stage 0. As
long as new requests come, survivors wait at their stage for company, which makes batches of the deeper stages larger;
but nobody is passed over for more than `max_delay_ms` after a stage: then its batch goes first.
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
from edgeexit.runtime.inference import Inference, InferenceBuilder, survivors
from edgeexit.runtime.stage_run import MS_PER_NS, StageRun, run_stage

PATIENCE_S: Final = 10.0
"""How long `close` waits for a stage that does not end."""

_log = logging.getLogger(__name__)
_Tensors = Mapping[str, npt.NDArray[Any]]
_Company = tuple[int, tuple[tuple[int, ...], ...]]
"""Who may share a batch: those of one policy whose inputs have one shape, the batch apart."""


class _PendingRequest:
    """What one call asked for, filled in as its samples leave."""

    def __init__(self, samples: int, exits: int, policy: Policy) -> None:
        self.policy = policy
        self.future: Future[Inference] = Future()
        self.submitted = time.perf_counter_ns()
        self._predictions = InferenceBuilder(samples, exits)
        self._missing = samples
        self._stage_ms: list[float] = []
        self._decide_ms: list[float] = []
        self._wanted: bool | None = None

    def wanted(self) -> bool:
        """Tell whether it is to be run: it was not cancelled before its first sample ran, and did not fail."""
        if self._wanted is None:
            self._wanted = self.future.set_running_or_notify_cancel()
        return self._wanted

    def fail(self, error: BaseException) -> None:
        """End without an answer; those of its samples that are elsewhere come to nothing."""
        self._wanted = False
        with contextlib.suppress(InvalidStateError):  # told already, or cancelled
            self.future.set_exception(error)

    def advance(self, run: StageRun, outputs: Array | None, rows: list[int], places: Rows) -> None:
        """Take what a stage and the policy said of its samples, `places` in the request and `rows` in the batch.

        `outputs` are those of the batch; None where nobody leaves it.
        """
        if run.stage == len(self._stage_ms):
            self._stage_ms.append(0.0)
            self._decide_ms.append(0.0)
        self._stage_ms[run.stage] += run.stage_ms
        self._decide_ms[run.stage] += run.decide_ms
        self._predictions.score(run.stage, places, run.decision.score[rows])
        left = [place for place, row in enumerate(rows) if run.decision.exit_mask[row]]
        if outputs is None or not left:
            return
        latency_ms = (run.decided - self.submitted) * MS_PER_NS
        self._predictions.leave(run, places[left], np.array(rows)[left], outputs=outputs, latency_ms=latency_ms)
        self._missing -= len(left)
        if not self._missing:
            with contextlib.suppress(InvalidStateError):  # it failed
                self.future.set_result(self._predictions.inference(self._stage_ms, self._decide_ms))


class _Piece:
    """Samples of a request that wait for stage 0, as many as a batch may have."""

    def __init__(self, request: _PendingRequest, tensors: _Tensors, places: Rows, company: _Company) -> None:
        self.request = request
        self.tensors = tensors
        self.places = places
        self.company = company


class _Group:
    """Samples of several requests that wait together for their next stage."""

    def __init__(self, company: _Company, pieces: Sequence[_Piece], staged: StagedBatch) -> None:
        self.company = company
        self.policy = pieces[0].request.policy
        self.staged = staged
        self.stage = 0
        self.owners = [piece.request for piece in pieces for _ in piece.places]
        self.places = np.concatenate([piece.places for piece in pieces])
        """Each sample's place in its request."""
        self.state = self.policy.initial_state(len(self.places))
        self.since = 0
        """When the one that waits longest began to, in ns."""

    def go_on(self, run: StageRun) -> None:
        """Wait for the stage after this one, without those who left."""
        self.state = run.decision.state
        if run.decision.exit_mask.any():
            rows = survivors(run.decision.exit_mask)
            self.staged.select_rows(rows)
            self.owners = [self.owners[row] for row in rows]
            self.places, self.state = self.places[rows], self.state[rows]
        self.stage += 1
        self.since = run.decided

    def close(self) -> None:
        """Give its memory back."""
        self.staged.__exit__(None, None, None)

    def join(self, other: "_Group") -> None:
        """Take in another group that waits for the same stage."""
        state = np.concatenate([self.state, other.state])  # while the memory that it may lie in is theirs
        self.staged.join(other.staged)
        self.state = state
        self.owners += other.owners
        self.places = np.concatenate([self.places, other.places])

    def rows_by_request(self) -> dict[_PendingRequest, list[int]]:
        """Return which rows are whose."""
        found: dict[_PendingRequest, list[int]] = {}
        for row, owner in enumerate(self.owners):
            found.setdefault(owner, []).append(row)
        return found


class Scheduler:
    """Runs the stages for all requests in a thread of its own.

    Args:
        backend: an open one.
        exits: number of exits K.
        max_delay_ms: longest time for which samples that could run are passed over for new ones, so that more run
            together. The stage that runs when it ends is waited for.
        max_waiting: most samples that are under way; more are refused.

    """

    def __init__(self, backend: StageBackend, exits: int, *, max_delay_ms: float, max_waiting: int) -> None:
        self._backend = backend
        self._exits = exits
        self._max_delay_ns = max_delay_ms / MS_PER_NS
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._fresh: deque[_Piece] = deque()
        self._groups: list[_Group] = []
        """Those past stage 0; touched by the thread alone."""
        self._requests: set[_PendingRequest] = set()
        """Those without an answer."""
        self._under_way = 0
        self._stages_run = 0
        self._closing = False
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name="stage-scheduler", daemon=True)
        self._thread.start()

    def submit(self, tensors: _Tensors, policy: Policy) -> Future[Inference]:
        """Ask for the answers of a batch, which is copied; the caller has checked both.

        Raises OverloadedError where too much waits already, and InferenceError once it is closed.
        """
        samples = len(next(iter(tensors.values())))
        company = (id(policy), tuple(array.shape[1:] for array in tensors.values()))
        request = _PendingRequest(samples, self._exits, policy)
        pieces = [
            _Piece(request, {name: array[places] for name, array in tensors.items()}, places, company)
            for places in np.array_split(np.arange(samples), -(-samples // self._backend.max_batch))
        ]
        with self._changed:
            if self._closing:
                raise InferenceError("the runner is closed; no more samples are taken")
            if self._under_way and self._under_way + samples > self._max_waiting:
                raise OverloadedError(
                    f"{self._under_way} samples are under way and {samples} more would pass the limit of "
                    f"{self._max_waiting}; try again later"
                )
            self._under_way += samples
            self._fresh.extend(pieces)
            self._requests.add(request)
            self._changed.notify()
        request.future.add_done_callback(lambda _: self._requests.discard(request))
        return request.future

    def close(self) -> None:
        """Answer what has been taken in, and end the thread.

        Where a stage does not end for `PATIENCE_S`, what has no answer yet is told so (InferenceError), and the thread
        is left behind.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        while self._thread.is_alive():
            before = self._stages_run
            self._thread.join(PATIENCE_S)
            if self._thread.is_alive() and self._stages_run == before:
                self._give_up()
                return

    def _give_up(self) -> None:
        """Tell those who have no answer that they get none; should the thread come back, it ends."""
        with self._changed:
            self._given_up = True
            self._fresh.clear()
            unanswered = list(self._requests)
        reason = f"a stage has not ended for {PATIENCE_S:g} s; the runner was closed without it"
        _log.warning("%s, %d requests have no answer", reason, len(unanswered))
        for request in unanswered:
            request.fail(InferenceError(reason))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._fresh or self._groups or self._closing):
                    self._changed.wait()
                fresh = bool(self._fresh)
            if self._given_up:
                for left_over in self._groups:
                    left_over.close()
                return
            if not (fresh or self._groups):
                return
            group = self._next_waiting(fresh=fresh)
            if group is not None:
                self._advance(group)
            elif pieces := self._next_fresh():
                self._begin(pieces)

    def _next_waiting(self, *, fresh: bool) -> _Group | None:
        """Take the group whose turn it is; None where it is that of those who came in."""
        now, most = time.perf_counter_ns(), self._backend.max_batch
        due = [group for group in self._groups if now - group.since >= self._max_delay_ns or len(group.places) == most]
        if due:
            chosen = min(due, key=lambda group: group.since)
        elif fresh:
            return None
        else:  # survivors of the shallowest are company for those further on
            chosen = min(self._groups, key=lambda group: group.stage)
        self._groups.remove(chosen)
        return chosen

    def _next_fresh(self) -> list[_Piece]:
        """Take those who came in first, may share a batch and are still wanted."""
        pieces: list[_Piece] = []
        room = self._backend.max_batch
        with self._changed:
            while self._fresh and len(self._fresh[0].places) <= room:
                if pieces and self._fresh[0].company != pieces[0].company:
                    break
                piece = self._fresh.popleft()
                if piece.request.wanted():
                    pieces.append(piece)
                    room -= len(piece.places)
                else:
                    self._under_way -= len(piece.places)
        return pieces

    def _begin(self, pieces: Sequence[_Piece]) -> None:
        """Run stage 0 of those who came in."""
        policy = pieces[0].request.policy
        try:
            tensors = {
                name: np.concatenate([piece.tensors[name] for piece in pieces]) if len(pieces) > 1 else array
                for name, array in pieces[0].tensors.items()
            }
            staged = self._backend.begin(tensors, probabilities=policy.reads_probabilities)
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and the others go on
            for piece in pieces:
                piece.request.fail(error)
            self._release(sum(len(piece.places) for piece in pieces))
            return
        self._advance(_Group(pieces[0].company, pieces, staged))

    def _advance(self, group: _Group) -> None:
        """Run a group's next stage, let samples leave, and let the others wait for the stage after it."""
        under_way = len(group.owners)
        try:
            run = run_stage(group.staged, group.policy, group.stage, group.state)
            self._stages_run += 1
            outputs = group.staged.outputs() if run.decision.exit_mask.any() else None  # they may be far away, on a GPU
            for request, rows in group.rows_by_request().items():
                request.advance(run, outputs, rows, group.places[rows])
            exit_mask = run.decision.exit_mask
            left = int(np.count_nonzero(exit_mask))
            self._release(left)
            under_way -= left
            if under_way:
                group.go_on(run)
                self._wait(group)
            else:
                group.close()
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and the others go on
            for request in set(group.owners):
                request.fail(error)
            self._release(under_way)
            group.close()

    def _wait(self, group: _Group) -> None:
        """Let a group wait for its next stage, with those who wait for it already where they fit together."""
        for other in self._groups:
            if (
                other.stage == group.stage
                and other.company == group.company
                and len(other.places) + len(group.places) <= self._backend.max_batch
            ):
                other.join(group)
                return
        self._groups.append(group)

    def _release(self, samples: int) -> None:
        with self._changed:
            self._under_way -= samples

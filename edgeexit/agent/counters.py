"""Counts exits, scores and latencies: cumulative per policy revision since the start of the agent."""

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.latency import BIN_COUNT, bin_of
from edgeexit.policies import Policy
from edgeexit.runtime import Inference
from edgeexit.wire import SCORE_BINS, ExitCounters

_MAX_PENDING: Final = 256
"""Maximum number of batches recorded but not counted: counting many at once costs hardly more than counting one."""


class RevisionSnapshot(NamedTuple):
    """The counts of one policy revision at one moment."""

    revision: int
    exits: tuple[ExitCounters, ...]
    failed: int
    """Inferences that raised an error."""


class CounterTotals(NamedTuple):
    """The counts of all policy revisions at one moment."""

    exited: tuple[int, ...]
    """[K] samples that exited at each exit."""
    failed: int
    """Inferences that raised an error."""
    latency_ms: float
    """Sum over all samples."""


class _PendingBatch(NamedTuple):
    """Copies of the arrays of one batch; the originals belong to the caller."""

    exits: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    latency_ms: npt.NDArray[np.float64]


class _RevisionCounters:
    """The running counts of one policy revision."""

    def __init__(self, exits: int) -> None:
        self.exited: npt.NDArray[np.int64] = np.zeros(exits, dtype=np.int64)
        self.scores: npt.NDArray[np.int64] = np.zeros((exits, SCORE_BINS), dtype=np.int64)
        self.latency: npt.NDArray[np.int64] = np.zeros((exits, BIN_COUNT), dtype=np.int64)
        self.failed = 0
        self.total_ms = 0.0

    def add(self, batches: Sequence[_PendingBatch], score_limit: float) -> None:
        exits, scores, latency_ms = (np.concatenate(column) for column in zip(*batches, strict=True))
        reached = np.arange(len(self.exited)) <= exits[:, None]
        exit_index = np.nonzero(reached)[1]
        # fmax replaces NaN by 0: a score is NaN when the logits are, and it is counted in the lowest bin.
        fraction = np.fmax(scores[reached] / np.float32(score_limit), 0)
        score_bin = np.fmin(fraction * SCORE_BINS, SCORE_BINS - 1).astype(np.int64)
        np.add.at(self.exited, exits, 1)
        np.add.at(self.scores, (exit_index, score_bin), 1)
        np.add.at(self.latency, (exits, bin_of(latency_ms)), 1)
        self.total_ms += float(latency_ms.sum())

    def snapshot(self, revision: int) -> RevisionSnapshot:
        reached = np.cumsum(self.exited[::-1])[::-1]
        exits = tuple(
            ExitCounters(
                reached=int(reached[k]),
                exited=int(self.exited[k]),
                scores=tuple(self.scores[k].tolist()),
                latency=tuple(self.latency[k].tolist()),
            )
            for k in range(len(reached))
        )
        return RevisionSnapshot(revision, exits, self.failed)


class Counters:
    """Cumulative counters since the start of the agent. Thread-safe."""

    def __init__(self, exits: int) -> None:
        self._exits = exits
        self._lock = threading.Lock()
        self._counters: dict[int, _RevisionCounters] = {}
        self._changed: set[int] = set()
        self._pending: dict[tuple[int, float], list[_PendingBatch]] = {}
        """(revision, score limit of its policy) -> batches that are not counted yet."""
        self._pending_batches = 0
        self.batches = 0
        """Number of batches recorded."""

    def record(self, revision: int, policy: Policy, result: Inference) -> None:
        """Record a batch that ran under a policy revision."""
        batch = _PendingBatch(result.exits.copy(), result.scores.copy(), result.latency_ms.copy())
        with self._lock:
            self._pending.setdefault((revision, policy.score_limit), []).append(batch)
            self.batches += 1
            self._pending_batches += 1
            if self._pending_batches >= _MAX_PENDING:
                self._count_pending()

    def record_failure(self, revision: int) -> None:
        """Record an inference that raised an error."""
        with self._lock:
            self._of(revision).failed += 1

    def take_changed(self, *, always: int | None = None) -> list[RevisionSnapshot]:
        """Return the revisions whose counts changed since the last call, and revision `always` in any case."""
        with self._lock:
            self._count_pending()
            if always is not None:
                self._of(always)
            revisions, self._changed = sorted(self._changed), set()
            return [self._counters[revision].snapshot(revision) for revision in revisions]

    def snapshot(self, revision: int) -> RevisionSnapshot:
        """Return the counts of one revision; zeros if nothing ran under it."""
        with self._lock:
            self._count_pending()
            counters = self._counters.get(revision)
            return (_RevisionCounters(self._exits) if counters is None else counters).snapshot(revision)

    def totals(self) -> CounterTotals:
        """Return the counts of all revisions together."""
        with self._lock:
            self._count_pending()
            counters = list(self._counters.values())
            return CounterTotals(
                exited=tuple(sum(int(one.exited[k]) for one in counters) for k in range(self._exits)),
                failed=sum(one.failed for one in counters),
                latency_ms=sum(one.total_ms for one in counters),
            )

    def _count_pending(self) -> None:
        pending, self._pending, self._pending_batches = self._pending, {}, 0
        for (revision, score_limit), batches in pending.items():
            self._of(revision).add(batches, score_limit)

    def _of(self, revision: int) -> _RevisionCounters:
        self._changed.add(revision)
        return self._counters.setdefault(revision, _RevisionCounters(self._exits))

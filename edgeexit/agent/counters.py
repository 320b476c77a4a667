"""What a device counts: exits, scores and latencies, cumulative per policy revision within a boot."""

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.latency import BIN_COUNT, bin_of
from edgeexit.policies import Policy
from edgeexit.runtime import Inference
from edgeexit.wire import SCORE_BINS, ExitCounters

_UNCOUNTED: Final = 256
"""Batches noted and not yet counted: counting many at once costs hardly more than counting one."""


class Snapshot(NamedTuple):
    """The counts of one revision at one moment."""

    revision: int
    exits: tuple[ExitCounters, ...]
    failed: int
    """Inferences that raised an error."""


class Totals(NamedTuple):
    """The counts of all revisions at one moment."""

    exited: tuple[int, ...]
    """[K] samples that left at each exit."""
    failed: int
    latency_ms: float
    """Sum over the samples."""


class _Noted(NamedTuple):
    """What is counted of one batch, copied: the arrays are their owner's."""

    exits: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    latency_ms: npt.NDArray[np.float64]


class _Counts:
    """The counts of one revision, going on."""

    def __init__(self, exits: int) -> None:
        self.exited: npt.NDArray[np.int64] = np.zeros(exits, dtype=np.int64)
        self.scores: npt.NDArray[np.int64] = np.zeros((exits, SCORE_BINS), dtype=np.int64)
        self.latency: npt.NDArray[np.int64] = np.zeros((exits, BIN_COUNT), dtype=np.int64)
        self.failed = 0
        self.total_ms = 0.0

    def count(self, batches: Sequence[_Noted], score_limit: float) -> None:
        exits, scores, latency_ms = (np.concatenate(column) for column in zip(*batches, strict=True))
        reached = np.arange(len(self.exited)) <= exits[:, None]
        exit_index = np.nonzero(reached)[1]
        # fmax takes 0 for a score that is not a number: it comes from an output that is none, and is counted as lowest.
        fraction = np.fmax(scores[reached] / np.float32(score_limit), 0)
        score_bin = np.fmin(fraction * SCORE_BINS, SCORE_BINS - 1).astype(np.int64)
        np.add.at(self.exited, exits, 1)
        np.add.at(self.scores, (exit_index, score_bin), 1)
        np.add.at(self.latency, (exits, bin_of(latency_ms)), 1)
        self.total_ms += float(latency_ms.sum())

    def snapshot(self, revision: int) -> Snapshot:
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
        return Snapshot(revision, exits, self.failed)


class Counters:
    """Cumulative counters of this boot; may be called from several threads."""

    def __init__(self, exits: int) -> None:
        self._exits = exits
        self._lock = threading.Lock()
        self._counts: dict[int, _Counts] = {}
        self._changed: set[int] = set()
        self._noted: dict[tuple[int, float], list[_Noted]] = {}
        """(revision, its policy's score limit) -> batches that are not counted yet."""
        self._uncounted = 0
        self.batches = 0
        """Number of batches that were answered."""

    def record(self, revision: int, policy: Policy, result: Inference) -> None:
        """Take note of a batch that was answered under a policy revision."""
        noted = _Noted(result.exits.copy(), result.scores.copy(), result.latency_ms.copy())
        with self._lock:
            self._noted.setdefault((revision, policy.score_limit), []).append(noted)
            self.batches += 1
            self._uncounted += 1
            if self._uncounted >= _UNCOUNTED:
                self._count()

    def record_failure(self, revision: int) -> None:
        """Count an inference that raised an error."""
        with self._lock:
            self._of(revision).failed += 1

    def take_changed(self, *, always: int | None = None) -> list[Snapshot]:
        """Return the revisions that counted something since the last call, and `always` even if it did not."""
        with self._lock:
            self._count()
            if always is not None:
                self._of(always)
            revisions, self._changed = sorted(self._changed), set()
            return [self._counts[revision].snapshot(revision) for revision in revisions]

    def totals(self) -> Totals:
        """Return what all revisions together counted."""
        with self._lock:
            self._count()
            counts = list(self._counts.values())
            return Totals(
                exited=tuple(sum(int(one.exited[k]) for one in counts) for k in range(self._exits)),
                failed=sum(one.failed for one in counts),
                latency_ms=sum(one.total_ms for one in counts),
            )

    def _count(self) -> None:
        noted, self._noted, self._uncounted = self._noted, {}, 0
        for (revision, score_limit), batches in noted.items():
            self._of(revision).count(batches, score_limit)

    def _of(self, revision: int) -> _Counts:
        self._changed.add(revision)
        return self._counts.setdefault(revision, _Counts(self._exits))

"""What a device counts: exits, scores and latencies, cumulative per policy revision within a boot."""

import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.latency import BIN_COUNT, bin_of
from edgeexit.messages import SCORE_BINS, ExitCounters
from edgeexit.policies import AnyPolicy
from edgeexit.runtime import Inference


class Snapshot(NamedTuple):
    """The counts of one revision at one moment."""

    revision: int
    exits: tuple[ExitCounters, ...]
    failed: int
    """Inferences that raised an error."""


class _Counts:
    """The counts of one revision, going on."""

    def __init__(self, exits: int) -> None:
        self.exited: npt.NDArray[np.int64] = np.zeros(exits, dtype=np.int64)
        self.scores: npt.NDArray[np.int64] = np.zeros((exits, SCORE_BINS), dtype=np.int64)
        self.latency: npt.NDArray[np.int64] = np.zeros((exits, BIN_COUNT), dtype=np.int64)
        self.failed = 0

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

    def record(self, revision: int, policy: AnyPolicy, result: Inference) -> None:
        """Count a batch that was answered under a policy revision."""
        reached = np.arange(self._exits) <= result.exits[:, None]
        exit_index = np.nonzero(reached)[1]
        # fmax takes 0 for a score that is not a number: it comes from an output that is none, and is counted as lowest.
        share = np.fmax(result.scores[reached] / np.float32(policy.score_limit), 0)
        score_bin = np.fmin(share * SCORE_BINS, SCORE_BINS - 1).astype(np.int64)
        latency_bin = bin_of(result.latency_ms)
        with self._lock:
            counts = self._of(revision)
            np.add.at(counts.exited, result.exits, 1)
            np.add.at(counts.scores, (exit_index, score_bin), 1)
            np.add.at(counts.latency, (result.exits, latency_bin), 1)

    def record_failure(self, revision: int) -> None:
        """Count an inference that raised an error."""
        with self._lock:
            self._of(revision).failed += 1

    def take_changed(self, *, always: int | None = None) -> list[Snapshot]:
        """Return the revisions that counted something since the last call, and `always` even if it did not."""
        with self._lock:
            if always is not None:
                self._of(always)
            revisions, self._changed = sorted(self._changed), set()
            return [self._counts[revision].snapshot(revision) for revision in revisions]

    def _of(self, revision: int) -> _Counts:
        self._changed.add(revision)
        return self._counts.setdefault(revision, _Counts(self._exits))

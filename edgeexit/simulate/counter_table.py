"""The cumulative counters of many agents in one array; adds to them what `edgeexit.agent.counters` adds."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeexit.latency import BIN_COUNT
from edgeexit.wire import SCORE_BINS, ExitCounters

PER_EXIT: Final = 2 + SCORE_BINS + BIN_COUNT
"""Numbers per exit: reached, exited, the bins of scores, the bins of latency."""
_EXITED: Final = 1
_SCORES: Final = 2
_LATENCY: Final = 2 + SCORE_BINS

Indices = npt.NDArray[np.int64]
CountArray = npt.NDArray[np.int64]


class CounterTable:
    """Counters [agents, 62 K + 1] of agents with K exits; the last column counts failed inferences.

    Args:
        agents: number of rows.
        exits: number of exits K.

    """

    def __init__(self, agents: int, exits: int) -> None:
        self.exits = exits
        self.width = exits * PER_EXIT + 1
        self.counts: CountArray = np.zeros((agents, self.width), dtype=np.int64)

    def add(self, rows: Indices, exits: Indices, score_bins: Indices, latency_bins: Indices) -> CountArray:
        """Count n samples for each of B agents; return their counters [B, 62 K + 1].

        Args:
            rows: [B] rows of different agents.
            exits: [B, n] index of the exit of each sample.
            score_bins: [B, n, K] bin of the score at each exit; those beyond its exit are not counted.
            latency_bins: [B, n] bin of the latency.

        """
        offset = (np.arange(len(rows)) * self.width)[:, None] + exits * PER_EXIT
        depths = np.arange(self.exits)
        scored = (np.arange(len(rows)) * self.width)[:, None, None] + depths * PER_EXIT + _SCORES + score_bins
        places = np.concatenate(
            [
                (offset + _EXITED).ravel(),
                (offset + _LATENCY + latency_bins).ravel(),
                scored[depths <= exits[:, :, None]],
            ]
        )
        added = np.bincount(places, minlength=len(rows) * self.width).reshape(len(rows), self.width)
        per_exit = added[:, :-1].reshape(len(rows), self.exits, PER_EXIT)
        per_exit[:, :, 0] = np.cumsum(per_exit[:, ::-1, _EXITED], axis=1)[:, ::-1]
        added += self.counts[rows]
        self.counts[rows] = added
        return added


def exit_counters(counts: Sequence[int]) -> tuple[ExitCounters, ...]:
    """Return the counters per exit of a row."""
    row = tuple(counts)  # its slices are tuples, too
    found = []
    for place in range(0, len(row) - 1, PER_EXIT):
        latency = place + _LATENCY
        counters = ExitCounters(
            reached=row[place],
            exited=row[place + _EXITED],
            scores=row[place + _SCORES : latency],
            latency=row[latency : place + PER_EXIT],
        )
        found.append(counters)
    return tuple(found)


def counts_of_exits(exits: tuple[ExitCounters, ...], failed: int) -> CountArray:
    """Return the row [62 K + 1] of the counters of a report; the inverse of `exit_counters`."""
    numbers = [number for one in exits for number in (one.reached, one.exited, *one.scores, *one.latency)]
    return np.array([*numbers, failed], dtype=np.int64)

"""The cumulative counters of many agents in one array; adds to them what `edgeexit.agent.counters` adds."""

import numpy as np
import numpy.typing as npt

from edgeexit.wire.counter_array import EXITED, LATENCY, PER_EXIT, SCORES, Counts, width_of

Indices = npt.NDArray[np.int64]


class CounterTable:
    """Counters [agents, 62 K + 1] of agents with K exits; the last column counts failed inferences.

    Args:
        agents: number of rows.
        exits: number of exits K.

    """

    def __init__(self, agents: int, exits: int) -> None:
        self.exits = exits
        self.width = width_of(exits)
        self.counts: Counts = np.zeros((agents, self.width), dtype=np.int64)

    def add(self, rows: Indices, exits: Indices, score_bins: Indices, latency_bins: Indices) -> Counts:
        """Count n samples for each of B agents; return their counters [B, 62 K + 1].

        Args:
            rows: [B] rows of different agents.
            exits: [B, n] index of the exit of each sample.
            score_bins: [B, n, K] bin of the score at each exit; those beyond its exit are not counted.
            latency_bins: [B, n] bin of the latency.

        """
        offset = (np.arange(len(rows)) * self.width)[:, None] + exits * PER_EXIT
        depths = np.arange(self.exits)
        scored = (np.arange(len(rows)) * self.width)[:, None, None] + depths * PER_EXIT + SCORES + score_bins
        places = np.concatenate(
            [
                (offset + EXITED).ravel(),
                (offset + LATENCY + latency_bins).ravel(),
                scored[depths <= exits[:, :, None]],
            ]
        )
        added = np.bincount(places, minlength=len(rows) * self.width).reshape(len(rows), self.width)
        per_exit = added[:, :-1].reshape(len(rows), self.exits, PER_EXIT)
        per_exit[:, :, 0] = np.cumsum(per_exit[:, ::-1, EXITED], axis=1)[:, ::-1]
        added += self.counts[rows]
        self.counts[rows] = added
        return added

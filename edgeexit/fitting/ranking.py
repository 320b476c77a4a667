"""Ranks samples by their scores, and expresses thresholds as positions in that order.

Position p at an exit is a threshold that the p highest of all scores there reach. The search works with positions,
because their number is finite, and converts them to thresholds at the end.
"""

from collections.abc import Sequence
from math import floor

import numpy as np
import numpy.typing as npt

from edgeexit.policies.readout import Array

Indices = npt.NDArray[np.int64]
Positions = tuple[int, ...]
"""[K-1] for each early exit, the number of samples whose score reaches the threshold. It counts all samples, also those
that exit earlier."""

_MAX_DECIMALS = 12
_BELOW = 1000
"""A threshold below all scores is rounded down to a multiple of 1 / `_BELOW`."""
_MIN_GAP_ULPS = 32
"""Gap between two scores, in float32 steps, from which they count as reliably different. Logits of other batch sizes
differ by rounding errors that change probabilities by a few steps."""
_RUN = 8
"""Number of positions in a row of which one remains possible if all their gaps are smaller."""


class Ranking:
    """The samples in the order of their scores at each early exit, and the positions that this order permits.

    Equal scores exit together, so no position separates them; the same holds for scores that differ by rounding errors
    only. A sample whose score is not finite does not exit.
    """

    def __init__(self, scores: Array) -> None:
        """Rank the samples by the `scores` [N, K] of a policy; those of the final exit are not used."""
        self.samples, self.exits = scores.shape
        early = range(self.exits - 1)
        self.order = [np.argsort(-scores[:, k], kind="stable") for k in early]
        """For each early exit the indices of the samples [N], the highest score first."""
        self.ranks = np.empty((self.exits - 1, self.samples), dtype=np.int32)
        """[K-1, N] index of each sample in `order`."""
        self.possible: list[npt.NDArray[np.int64]] = []
        """For each early exit the possible positions, increasing. The first is 0: no sample exits."""
        self.ties = np.empty((self.exits - 1, self.samples), dtype=np.int32)
        """[K-1, N] index into `possible` of the last position at which the sample continues. Equal scores have equal
        indices."""
        self._ordered: list[Array] = []
        for k in early:
            ordered = scores[self.order[k], k]
            finite = int(np.isfinite(ordered).sum())
            self.possible.append(np.unique(np.append(_separable(ordered[:finite]), [0, finite])))
            self._ordered.append(ordered)
            self.ranks[k, self.order[k]] = np.arange(self.samples)
            self.ties[k] = np.searchsorted(self.possible[k], self.ranks[k], side="right") - 1

    @property
    def loosest(self) -> Positions:
        """The positions of the lowest possible cost: every sample exits as early as its scores permit."""
        return tuple(int(possible[-1]) for possible in self.possible)

    @property
    def single_exits(self) -> tuple[Positions, ...]:
        """For each early exit k, the positions at which samples exit at k only: all whose score there is finite."""
        early = range(self.exits - 1)
        return tuple(tuple(int(self.possible[k][-1]) if k == taken else 0 for k in early) for taken in early)

    def exits_of(self, positions: Sequence[int]) -> npt.NDArray[np.intp]:
        """Return the exit [N] of each sample under these positions."""
        exits = np.full(self.samples, self.exits - 1, dtype=np.intp)
        for k in range(self.exits - 2, -1, -1):
            if positions[k]:
                np.copyto(exits, k, where=self.ranks[k] < positions[k])
        return exits

    def nearest_position(self, k: int, position: float) -> int:
        """Return the lowest possible position of exit `k` that is at least `position`, or its highest position."""
        possible = self.possible[k]
        return int(possible[min(int(np.searchsorted(possible, position)), len(possible) - 1)])

    def with_fractions(self, fractions: Sequence[float]) -> Positions:
        """Return positions at which these fractions [K] of all samples exit; ties can add samples."""
        remaining = np.ones(self.samples, dtype=np.bool_)
        positions = []
        for k in range(self.exits - 1):
            wanted = round(fractions[k] * self.samples)
            ranks = np.flatnonzero(remaining[self.order[k]])
            position = 0
            if wanted > 0 and len(ranks):
                position = self.nearest_position(k, ranks[min(wanted, len(ranks)) - 1] + 1)
            positions.append(position)
            remaining &= self.ranks[k] >= position
        return tuple(positions)

    def thresholds(self, positions: Sequence[int]) -> tuple[float | None, ...]:
        """Return the thresholds [K-1] at these positions: numbers between two scores, with few decimals."""
        return tuple(self._threshold(k, position) for k, position in enumerate(positions))

    def _threshold(self, k: int, position: int) -> float | None:
        if not position:
            return None
        ordered = self._ordered[k]
        exits = float(ordered[position - 1])
        if position == self.possible[k][-1]:  # all samples exit; with 0, so do new samples with lower positive scores
            return 0.0 if exits >= 0 else floor(exits * _BELOW - 1) / _BELOW
        return shortest_between(float(ordered[position]), exits)


def shortest_between(continues: float, exits: float) -> float:
    """Return the number with the fewest decimals in the middle half between two scores, both float32 values.

    The score of a sample can differ by rounding errors between batch sizes and devices, so a threshold is not close to
    a score. Whole numbers are counts, which are exact: between two of them, it is the higher one. The number separates
    the two in float32, because policies compare in float32.
    """
    if continues.is_integer() and exits.is_integer():
        return exits
    middle, margin = (continues + exits) / 2, (exits - continues) / 4
    for decimals in range(_MAX_DECIMALS):
        value = round(middle, decimals)
        if continues + margin <= value <= exits - margin and continues < np.float32(value) <= exits:
            return value
    rounded = float(np.float32(middle))
    return rounded if continues < rounded else exits


def _separable(ordered: Array) -> Indices:
    """Return the positions [P] between scores [n], in descending order, that a threshold can separate reliably.

    Scores that are closer than rounding errors separate samples on one device and not on another. So of several
    positions in a row with such small gaps, only the one with the widest gap is possible.
    """
    gaps = ordered[:-1] - ordered[1:]
    if not len(gaps):
        return np.empty(0, dtype=np.int64)
    largest = np.maximum(np.abs(ordered[:-1]), np.abs(ordered[1:]))
    resolution = _MIN_GAP_ULPS * np.spacing(np.maximum(largest, np.float32(1)))  # certainties near 0 are 1 minus 1
    starts = np.arange(0, len(gaps), _RUN)
    widest = np.repeat(np.maximum.reduceat(gaps, starts), np.diff(np.append(starts, len(gaps))))
    chosen = (gaps > resolution) | ((gaps == widest) & (gaps > 0) & (widest <= resolution))
    return np.flatnonzero(chosen) + 1

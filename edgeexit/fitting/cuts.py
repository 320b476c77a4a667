"""Thresholds as cuts through the samples in the order of their scores: how many would leave at each exit."""

from collections.abc import Sequence
from math import floor

import numpy as np
import numpy.typing as npt

from edgeexit.policies.readout import Array

Cuts = tuple[int, ...]
"""[K-1] for each early exit: how many of ALL samples, the highest scores first, reach its threshold."""

_MAX_DECIMALS = 12


class Ranking:
    """The samples in the order of their scores at each early exit, and where that order may be cut.

    Ties leave together, so a cut never separates equal scores; a score that is not a finite number never leaves.
    """

    def __init__(self, scores: Array) -> None:
        """Sort `scores` [N, K] of a policy; the final exit's are not looked at."""
        self.samples, self.exits = scores.shape
        early = range(self.exits - 1)
        self.order = [np.argsort(-scores[:, k], kind="stable") for k in early]
        """For each early exit the samples [N], the highest score first."""
        self.ranks = np.empty((self.exits - 1, self.samples), dtype=np.int32)
        """[K-1, N] place of every sample in `order`."""
        self.places: list[npt.NDArray[np.int64]] = []
        """For each early exit the cuts there are, increasing; 0 first: nothing leaves."""
        self.ties = np.empty((self.exits - 1, self.samples), dtype=np.int32)
        """[K-1, N] index into `places` of the last cut under which a sample stays; equal scores have one."""
        self._ordered: list[Array] = []
        for k in early:
            ordered = scores[self.order[k], k]
            finite = int(np.isfinite(ordered).sum())
            ends = np.flatnonzero(ordered[1:finite] != ordered[: max(finite - 1, 0)]) + 1
            self.places.append(np.unique(np.append(ends, [0, finite])))
            self._ordered.append(ordered)
            self.ranks[k, self.order[k]] = np.arange(self.samples)
            self.ties[k] = np.searchsorted(self.places[k], self.ranks[k], side="right") - 1

    @property
    def loosest(self) -> Cuts:
        """Everything leaves as early as it can: the least cost there is."""
        return tuple(int(places[-1]) for places in self.places)

    @property
    def single_exits(self) -> tuple[Cuts, ...]:
        """For each early exit: everything leaves there that can, and nothing before or after."""
        early = range(self.exits - 1)
        return tuple(tuple(int(self.places[k][-1]) if k == taken else 0 for k in early) for taken in early)

    def exits_of(self, cuts: Sequence[int]) -> npt.NDArray[np.intp]:
        """Return the exit [N] at which each sample leaves."""
        exits = np.full(self.samples, self.exits - 1, dtype=np.intp)
        for k in range(self.exits - 2, -1, -1):
            if cuts[k]:
                np.copyto(exits, k, where=self.ranks[k] < cuts[k])
        return exits

    def place_near(self, k: int, cut: float) -> int:
        """Return the least cut of exit `k` that is at least `cut`, or its loosest."""
        places = self.places[k]
        return int(places[min(int(np.searchsorted(places, cut)), len(places) - 1)])

    def with_fractions(self, fractions: Sequence[float]) -> Cuts:
        """Return cuts under which, in order of depth, a share of all samples leaves at each exit; ties may add some."""
        left = np.ones(self.samples, dtype=np.bool_)
        cuts = []
        for k in range(self.exits - 1):
            wanted = round(fractions[k] * self.samples)
            waiting = np.flatnonzero(left[self.order[k]])
            cut = 0
            if wanted > 0 and len(waiting):
                cut = self.place_near(k, waiting[min(wanted, len(waiting)) - 1] + 1)
            cuts.append(cut)
            left &= self.ranks[k] >= cut
        return tuple(cuts)

    def thresholds(self, cuts: Sequence[int]) -> tuple[float | None, ...]:
        """Return thresholds [K-1] that cut as asked; they lie between scores and have as few decimals as can be."""
        return tuple(self._threshold(k, cut) for k, cut in enumerate(cuts))

    def _threshold(self, k: int, cut: int) -> float | None:
        if not cut:
            return None
        ordered = self._ordered[k]
        exit_mask = float(ordered[cut - 1])
        if cut == self.places[k][-1]:  # all leave: also those of new samples that score lower, where 0 says so
            return min(exit_mask, 0.0)
        return plainest_between(float(ordered[cut]), exit_mask)


def plainest_between(stays: float, exit_mask: float) -> float:
    """Return the number with the fewest decimals above `stays` and at most `exit_mask`, both float32 values.

    Among those with equally few, one near the middle, so that noise in a device's arithmetic moves nobody across. It
    separates the two as float32, too: that is how a policy compares.
    """
    middle = (stays + exit_mask) / 2
    for decimals in range(_MAX_DECIMALS):
        scale = 10.0**decimals
        for value in (round(middle, decimals), floor(exit_mask * scale) / scale):
            if stays < np.float32(value) <= exit_mask:
                return float(value)
    return exit_mask

"""Cuts: thresholds as positions in the ranking of the samples by score, i.e. how many samples reach each of them."""

from collections.abc import Sequence
from math import floor

import numpy as np
import numpy.typing as npt

from edgeexit.policies.readout import Array

Cuts = tuple[int, ...]
"""[K-1] number of samples, of ALL samples, whose score reaches the threshold of each early exit."""

_MAX_DECIMALS = 12


class Ranking:
    """The samples in the order of their scores at each early exit, and the cuts that this order permits.

    Equal scores exit together, so a cut never separates them. A score that is not finite never exits.
    """

    def __init__(self, scores: Array) -> None:
        """Rank the samples by the `scores` [N, K] of a policy; those of the final exit are not used."""
        self.samples, self.exits = scores.shape
        early = range(self.exits - 1)
        self.order = [np.argsort(-scores[:, k], kind="stable") for k in early]
        """For each early exit the indices of the samples [N], the highest score first."""
        self.ranks = np.empty((self.exits - 1, self.samples), dtype=np.int32)
        """[K-1, N] position of each sample in `order`."""
        self.places: list[npt.NDArray[np.int64]] = []
        """For each early exit the possible cuts, increasing; the first is 0: no sample exits."""
        self.ties = np.empty((self.exits - 1, self.samples), dtype=np.int32)
        """[K-1, N] index into `places` of the last cut at which the sample continues; the same for equal scores."""
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
        """The cuts of the lowest possible cost: every sample exits as early as its scores permit."""
        return tuple(int(places[-1]) for places in self.places)

    @property
    def single_exits(self) -> tuple[Cuts, ...]:
        """For each early exit, the cuts at which all samples exit there that can, and none at other early exits."""
        early = range(self.exits - 1)
        return tuple(tuple(int(self.places[k][-1]) if k == taken else 0 for k in early) for taken in early)

    def exits_of(self, cuts: Sequence[int]) -> npt.NDArray[np.intp]:
        """Return the exit [N] at which each sample exits."""
        exits = np.full(self.samples, self.exits - 1, dtype=np.intp)
        for k in range(self.exits - 2, -1, -1):
            if cuts[k]:
                np.copyto(exits, k, where=self.ranks[k] < cuts[k])
        return exits

    def place_near(self, k: int, cut: float) -> int:
        """Return the lowest possible cut of exit `k` that is at least `cut`, or its highest cut."""
        places = self.places[k]
        return int(places[min(int(np.searchsorted(places, cut)), len(places) - 1)])

    def with_fractions(self, fractions: Sequence[float]) -> Cuts:
        """Return cuts at which, in order of depth, these fractions of all samples exit; ties can add samples."""
        remaining = np.ones(self.samples, dtype=np.bool_)
        cuts = []
        for k in range(self.exits - 1):
            wanted = round(fractions[k] * self.samples)
            ranks = np.flatnonzero(remaining[self.order[k]])
            cut = 0
            if wanted > 0 and len(ranks):
                cut = self.place_near(k, ranks[min(wanted, len(ranks)) - 1] + 1)
            cuts.append(cut)
            remaining &= self.ranks[k] >= cut
        return tuple(cuts)

    def thresholds(self, cuts: Sequence[int]) -> tuple[float | None, ...]:
        """Return the thresholds [K-1] of cuts; they lie between two scores and have as few decimals as possible."""
        return tuple(self._threshold(k, cut) for k, cut in enumerate(cuts))

    def _threshold(self, k: int, cut: int) -> float | None:
        if not cut:
            return None
        ordered = self._ordered[k]
        exits = float(ordered[cut - 1])
        if cut == self.places[k][-1]:  # all samples exit: with 0, also new samples with lower positive scores
            return min(exits, 0.0)
        return shortest_between(float(ordered[cut]), exits)


def shortest_between(continues: float, exits: float) -> float:
    """Return the number with the fewest decimals above `continues` and at most `exits`, both float32 values.

    Among equally short numbers it is one near the middle, so that rounding on a device does not move samples across.
    It also separates the two in float32, because policies compare in float32.
    """
    middle = (continues + exits) / 2
    for decimals in range(_MAX_DECIMALS):
        scale = 10.0**decimals
        for value in (round(middle, decimals), floor(exits * scale) / scale):
            if continues < np.float32(value) <= exits:
                return float(value)
    return exits

"""Searches all K-1 thresholds together: the cuts of least objective within limits.

With all other thresholds fixed, the objective of every cut of one exit is a prefix sum over the samples in the order of
their scores there, so one scan, O(N K), finds the best cut. At a limit no single move helps, so pairs of thresholds
move: one by a step, from coarse to fine, and the other to the best cut that the limit then permits. A round is at most
(K-1) * 2 * 4 scans, and there are some tens of rounds from each of a few starts: O(N K^2) in all.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from edgeexit.fitting.cuts import Cuts, Ranking
from edgeexit.fitting.readout_dataset import Values

_COARSEST, _FINEST = 4, 512
"""Denominators of the steps of pair moves, as fractions of the samples."""
_PARTNERS = 4
"""Number of exits, the nearest in depth, that can be the second exit of a pair move."""
_ROUNDS = 6
"""Maximum number of rounds at one step size."""
_HALVINGS = 40
_STEEPEST = 40.0
"""Largest parameter of a schedule: beyond it, all samples exit at one end."""
_TIE = 1e-9
"""Weight of the first limit's quantity in the objective: among equal cuts, the cheaper ones win."""
_ROUNDING = 1e-12


class Limit(NamedTuple):
    """A quantity whose mean over the samples is bounded."""

    values: Values
    """[N, K] for each sample and the exit that it takes."""
    maximum: float
    """Upper bound of the mean."""


class Search:
    """The search for one objective and one set of limits."""

    def __init__(self, ranking: Ranking, objective: Values, limits: Sequence[Limit]) -> None:
        """Minimise the mean of `objective` [N, K] at the exits taken."""
        self._ranking = ranking
        bounded = [limit.values for limit in limits]
        first = objective if not bounded else objective + _TIE * bounded[0] / max(float(np.abs(bounded[0]).max()), 1.0)
        self._tables = np.ascontiguousarray(np.stack([first, *bounded]).transpose(0, 2, 1))
        maxima = np.array([limit.maximum for limit in limits])
        self._limits = (maxima + _ROUNDING * np.maximum(np.abs(maxima), 1.0)) * ranking.samples
        self._rows = np.arange(ranking.samples)
        early = range(ranking.exits - 1)
        nearest = np.abs(np.subtract.outer(early, early)).argsort(axis=1, kind="stable")
        self._partners = nearest[:, 1 : 1 + _PARTNERS].tolist()

    def value(self, cuts: Sequence[int]) -> float:
        """Return the sum of the objective, or infinity if a limit is violated."""
        totals = self._values_at(self._ranking.exits_of(cuts)).sum(axis=1)
        return float(totals[0]) if (totals[1:] <= self._limits).all() else np.inf

    def best(self, starts: Sequence[Cuts]) -> Cuts:
        """Return the best cuts that were found from all starts."""
        found = [self.improved(start) for start in dict.fromkeys(starts)]
        return min(found, key=self.value)

    def schedules(self, *, cheap: bool) -> tuple[Cuts, Cuts]:
        """Return two one-parameter schedules, each with the last parameter that is within the limits.

        The first has exit fractions in geometric progression (MSDNet, Huang et al., ICLR 2018), the second the same
        fraction of each exit's ranking. If `cheap`, the limits hold at the cheap end and the search moves towards full
        depth; otherwise it moves the other way.
        """
        depths = np.arange(self._ranking.exits)

        def geometric(depth: float) -> Cuts:
            return self._ranking.with_fractions(softmax(depth * depths).tolist())

        def uniform(depth: float) -> Cuts:
            cut = expit(-depth) * self._ranking.samples
            return tuple(self._ranking.place_near(k, round(cut)) for k in range(self._ranking.exits - 1))

        return self._farthest(geometric, cheap=cheap), self._farthest(uniform, cheap=cheap)

    def _farthest(self, schedule: Callable[[float], Cuts], *, cheap: bool) -> Cuts:
        within, beyond = (-_STEEPEST, _STEEPEST) if cheap else (_STEEPEST, -_STEEPEST)
        best = schedule(within)
        for _ in range(_HALVINGS):
            middle = (within + beyond) / 2
            cuts = schedule(middle)
            if np.isfinite(self.value(cuts)):
                within, best = middle, cuts
            else:
                beyond = middle
        return best

    def improved(self, start: Sequence[int]) -> Cuts:
        """Return cuts at least as good as `start` that neither a scan nor a pair move can improve."""
        cuts, value = self._scanned(list(start), self.value(start))
        samples = self._ranking.samples
        step = max(samples // _COARSEST, 1)
        finest = max(samples // _FINEST, 1)
        while step >= finest:
            for _ in range(_ROUNDS):
                moved, after = self._paired(cuts, value, step)
                if after >= value:
                    break
                cuts, value = moved, after
            step //= 2
        return tuple(self._scanned(cuts, value)[0])

    def _scanned(self, cuts: list[int], value: float) -> tuple[list[int], float]:
        for k in reversed(range(len(cuts))):
            found, cut = self._scan(cuts, k)
            if found < value:
                cuts, value = _replaced(cuts, k, cut), found
        return cuts, value

    def _paired(self, cuts: list[int], value: float, step: int) -> tuple[list[int], float]:
        for j in range(len(cuts)):
            for direction in (-step, step):
                place = self._ranking.place_near(j, max(cuts[j] + direction, 0))
                if place == cuts[j]:
                    continue
                moved = _replaced(cuts, j, place)
                for k in self._partners[j]:
                    found, cut = self._scan(moved, k)
                    if found < value - _ROUNDING:
                        cuts, value = _replaced(moved, k, cut), found
                        break
        return cuts, value

    def _scan(self, cuts: Sequence[int], k: int) -> tuple[float, int]:
        """Return the best objective over all cuts of exit `k`, with the other cuts fixed, and the best cut."""
        exits = self._ranking.exits_of(_replaced(cuts, k, 0))
        now = self._values_at(exits)
        totals = now.sum(axis=1)
        order = self._ranking.order[k]
        remaining = order[exits.take(order) > k]  # the samples that reach exit k, the highest score first
        value, cut = (float(totals[0]) if (totals[1:] <= self._limits).all() else np.inf), 0
        if not len(remaining):
            return value, cut
        changes = self._tables[:, k].take(remaining, axis=1)
        changes -= now.take(remaining, axis=1)
        sums = np.cumsum(changes, axis=1, out=changes)
        sums += totals[:, None]
        ties = self._ranking.ties[k].take(remaining)
        possible = ties < len(self._ranking.places[k]) - 1  # a score that is not finite never exits
        possible[:-1] &= ties[1:] != ties[:-1]
        for row, limit in zip(sums[1:], self._limits, strict=True):
            possible &= row <= limit
        values = np.where(possible, sums[0], np.inf)
        best = int(values.argmin())
        if values[best] < value:
            value, cut = float(values[best]), int(self._ranking.places[k][ties[best] + 1])
        return value, cut

    def _values_at(self, exits: npt.NDArray[np.intp]) -> Values:
        """Return the objective and the bounded quantities [1 + limits, N] of samples that exit at `exits` [N]."""
        samples, depth = self._ranking.samples, self._ranking.exits
        flat: Values = self._tables.reshape(len(self._tables), depth * samples)
        return np.asarray(flat.take(exits * samples + self._rows, axis=1), dtype=np.float64)


def _replaced(cuts: Sequence[int], k: int, cut: int) -> list[int]:
    return [*cuts[:k], cut, *cuts[k + 1 :]]

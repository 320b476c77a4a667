"""Searches the positions of all K-1 thresholds together: the lowest objective within limits.

If all other thresholds are fixed, the objective at every position of one exit is a prefix sum over the samples, in the
order of their scores at that exit. So one scan, O(N K), finds the best position. Once a limit is used up, no change of
a single threshold helps. Therefore thresholds also move in pairs: one by a step, from coarse to fine, and the other to
the best position that the limit then permits. A round takes at most (K-1) * 2 * 4 scans. There are a few dozen rounds
for each of a few starts: O(N K^2) in total.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from edgeexit.fitting.ranking import Positions, Ranking
from edgeexit.fitting.readout_dataset import Values

_COARSEST, _FINEST = 4, 512
"""The first step of a pair move is 1/4 of the samples, the last one 1/512."""
_PARTNERS = 4
"""Number of exits, the nearest in depth, that can be the second exit of a pair move."""
_ROUNDS = 6
"""Maximum number of rounds at one step size."""
_HALVINGS = 40
"""Number of bisection steps for the parameter of a schedule."""
_STEEPEST = 40.0
"""Largest parameter of a schedule: beyond it, all samples exit at one end."""
_TIE = 1e-9
"""Weight of the first limit's quantity in the objective: it decides between positions of equal objective."""
_ROUNDING = 1e-12


class Limit(NamedTuple):
    """A quantity whose mean over the samples is bounded."""

    values: Values
    """[N, K] the quantity for each sample at each exit where it may exit."""
    maximum: float
    """Upper bound of the mean."""


class Search:
    """The search for one objective and one set of limits."""

    def __init__(self, ranking: Ranking, objective: Values, limits: Sequence[Limit]) -> None:
        """Minimise the mean of `objective` [N, K] at the exits where the samples exit, within all `limits`."""
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

    def value(self, positions: Sequence[int]) -> float:
        """Return the sum of the objective over the samples, or infinity if a limit is violated."""
        totals = self._values_at(self._ranking.exits_of(positions)).sum(axis=1)
        return float(totals[0]) if (totals[1:] <= self._limits).all() else np.inf

    def best(self, starts: Sequence[Positions]) -> Positions:
        """Return the best positions that were found from all starts."""
        found = [self.improved(start) for start in dict.fromkeys(starts)]
        return min(found, key=self.value)

    def schedules(self, *, cheap: bool) -> tuple[Positions, Positions]:
        """Return two one-parameter schedules, each with the last parameter that is within the limits.

        The first has exit fractions in geometric progression (MSDNet, Huang et al., ICLR 2018), the second the same
        fraction of the ranking at each exit. If `cheap`, the limits hold where all samples exit at the first exit, and
        the parameter moves towards full depth. Otherwise the limits hold at full depth, and it moves the other way.
        """
        depths = np.arange(self._ranking.exits)

        def geometric(depth: float) -> Positions:
            return self._ranking.with_fractions(softmax(depth * depths).tolist())

        def uniform(depth: float) -> Positions:
            position = expit(-depth) * self._ranking.samples
            return tuple(self._ranking.nearest_position(k, round(position)) for k in range(self._ranking.exits - 1))

        return self._farthest(geometric, cheap=cheap), self._farthest(uniform, cheap=cheap)

    def _farthest(self, schedule: Callable[[float], Positions], *, cheap: bool) -> Positions:
        within, beyond = (-_STEEPEST, _STEEPEST) if cheap else (_STEEPEST, -_STEEPEST)
        best = schedule(within)
        for _ in range(_HALVINGS):
            middle = (within + beyond) / 2
            positions = schedule(middle)
            if np.isfinite(self.value(positions)):
                within, best = middle, positions
            else:
                beyond = middle
        return best

    def improved(self, start: Sequence[int]) -> Positions:
        """Return positions that are at least as good as `start`, improved by scans and pair moves."""
        positions, value = self._scanned(list(start), self.value(start))
        samples = self._ranking.samples
        step = max(samples // _COARSEST, 1)
        finest = max(samples // _FINEST, 1)
        while step >= finest:
            for _ in range(_ROUNDS):
                moved, after = self._paired(positions, value, step)
                if after >= value:
                    break
                positions, value = moved, after
            step //= 2
        return tuple(self._scanned(positions, value)[0])

    def _scanned(self, positions: list[int], value: float) -> tuple[list[int], float]:
        for k in reversed(range(len(positions))):
            found, position = self._scan(positions, k)
            if found < value:
                positions, value = _replaced(positions, k, position), found
        return positions, value

    def _paired(self, positions: list[int], value: float, step: int) -> tuple[list[int], float]:
        for j in range(len(positions)):
            for direction in (-step, step):
                position = self._ranking.nearest_position(j, max(positions[j] + direction, 0))
                if position == positions[j]:
                    continue
                moved = _replaced(positions, j, position)
                for k in self._partners[j]:
                    found, position = self._scan(moved, k)
                    if found < value - _ROUNDING:
                        positions, value = _replaced(moved, k, position), found
                        break
        return positions, value

    def _scan(self, positions: Sequence[int], k: int) -> tuple[float, int]:
        """Return the lowest objective over all positions of exit `k`, the others being fixed, and that position."""
        exits = self._ranking.exits_of(_replaced(positions, k, 0))
        now = self._values_at(exits)
        totals = now.sum(axis=1)
        order = self._ranking.order[k]
        remaining = order[exits.take(order) > k]  # the samples that reach exit k, the highest score first
        value, position = (float(totals[0]) if (totals[1:] <= self._limits).all() else np.inf), 0
        if not len(remaining):
            return value, position
        changes = self._tables[:, k].take(remaining, axis=1)
        changes -= now.take(remaining, axis=1)
        sums = np.cumsum(changes, axis=1, out=changes)
        sums += totals[:, None]
        ties = self._ranking.ties[k].take(remaining)
        possible = ties < len(self._ranking.possible[k]) - 1  # a score that is not finite never exits
        possible[:-1] &= ties[1:] != ties[:-1]
        for row, limit in zip(sums[1:], self._limits, strict=True):
            possible &= row <= limit
        values = np.where(possible, sums[0], np.inf)
        best = int(values.argmin())
        if values[best] < value:
            value, position = float(values[best]), int(self._ranking.possible[k][ties[best] + 1])
        return value, position

    def _values_at(self, exits: npt.NDArray[np.intp]) -> Values:
        """Return the objective and the limited quantities [1 + limits, N] of samples that exit at `exits` [N]."""
        samples, depth = self._ranking.samples, self._ranking.exits
        flat: Values = self._tables.reshape(len(self._tables), depth * samples)
        return np.asarray(flat.take(exits * samples + self._rows, axis=1), dtype=np.float64)


def _replaced(positions: Sequence[int], k: int, position: int) -> list[int]:
    return [*positions[:k], position, *positions[k + 1 :]]

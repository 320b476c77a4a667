"""The K-1 thresholds for a goal on the samples that choose, all together.

What counts is how they do on new samples, so they are chosen on expected losses (see `smoothing`), and what takes no
searching, a published schedule or one exit for all, stays where a search finds nothing that is better beyond its luck.
What is promised on the fitting data, the mean cost within the budget or the mean loss within the bound, is kept on the
losses and costs as they are.
"""

from decimal import ROUND_CEILING, Context
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.cuts import Cuts, Ranking
from edgeexit.fitting.frontier import Point
from edgeexit.fitting.readout_dataset import Values
from edgeexit.fitting.search import Limit, Search
from edgeexit.fitting.smoothing import expected_losses
from edgeexit.policies.readout import Array

_ROUNDING = 1e-9
_CLEARLY, _CLEARLY_CHEAPER = 1.0, 3.0
"""Standard errors by which cuts have to beat what takes no searching; the second where they leave budget unspent.

It takes more to believe that a deeper exit would be no better.
"""
_ALIKE = 0.01
"""Difference in mean cost, as a part of the full cost, that is as good as none."""


class LossOutOfReachError(FittingError):
    """No thresholds lose as little as is asked."""

    def __init__(self, max_loss: float, least: float) -> None:
        """Say what was asked and what there is."""
        super().__init__(f"a mean loss of {max_loss:g} cannot be reached: the least is {rounded_up(least)}")
        self.least = least


def within_budget(scores: Array, losses: Values, costs: Values, budget: float) -> Point:
    """Return the thresholds of least expected loss whose mean cost is at most `budget`.

    `scores` [N, K] of a policy, `losses` [N, K] in [0, 1] of answering at each exit, `costs` [K] cumulative. Raises
    FittingError for a budget that these scores cannot reach, with the least that they can.
    """
    ranking = Ranking(scores)
    least = mean_cost(ranking.exits_of(ranking.loosest), costs)
    if not budget >= least:
        raise FittingError(f"a mean cost of {budget:g} cannot be reached: the least is {rounded_up(least)}")
    expected = expected_losses(scores, losses)
    for slack in (0.0, _ROUNDING):
        search = Search(ranking, expected, [Limit(_spread(costs, scores), budget * (1 - slack))])
        cuts = _of_least_loss(search, ranking, expected, losses, costs)
        if mean_cost(ranking.exits_of(cuts), costs) <= budget:
            return _point(ranking, cuts, losses, costs)
    return _point(ranking, ranking.loosest, losses, costs)


def within_loss(scores: Array, losses: Values, costs: Values, max_loss: float) -> Point:
    """Return the thresholds of least mean cost whose mean loss is at most `max_loss`; arguments as above.

    Raises LossOutOfReachError where none lose so little, with the least loss found.
    """
    ranking = Ranking(scores)
    spread, deepest = _spread(costs, scores), (0,) * (ranking.exits - 1)
    expected = expected_losses(scores, losses)
    limits = [Limit(losses, max_loss + _ROUNDING), Limit(expected, max_loss + _ROUNDING)]
    if losses[:, -1].mean() > max_loss + _ROUNDING:
        # Less than the final exit loses: find out whether that can be had at all, and go on from there.
        best = Search(ranking, losses, []).best([deepest, ranking.loosest])
        least = _point(ranking, best, losses, costs)
        if not least.mean_loss <= max_loss + _ROUNDING:
            raise LossOutOfReachError(max_loss, least.mean_loss)
        return _point(ranking, Search(ranking, spread, limits[:1]).best([best]), losses, costs)
    search = Search(ranking, spread, limits)
    published, alike = search.schedules(cheap=False)
    found = search.best([published, alike, deepest, *ranking.single_exits])
    plain = min([published, *ranking.single_exits], key=search.value)
    dearer = (search.value(plain) - search.value(found)) / ranking.samples
    return _point(ranking, plain if dearer <= _ALIKE * costs[-1] else found, losses, costs)


def mean_cost(exits: npt.NDArray[np.integer], costs: Values) -> float:
    """Return the mean of `costs` [K] over the exits [N] that samples leave at, rounded once: within a bound it stays.

    A sum of rounded floats may end a hair above a budget that is kept.
    """
    counts = np.bincount(exits, minlength=len(costs))
    total = sum(int(count) * Fraction(float(cost)) for count, cost in zip(counts, costs, strict=True))
    return float(total / len(exits))


def rounded_up(value: float) -> str:
    """Return a figure in 6 digits, rounded up: asking for what an error says is the least works."""
    if value == 0:
        return "0"
    return f"{Context(prec=6, rounding=ROUND_CEILING).create_decimal(value).normalize():f}"


def _of_least_loss(search: Search, ranking: Ranking, expected: Values, losses: Values, costs: Values) -> Cuts:
    """Return what takes no searching, a geometric schedule or one exit for all, or the best cuts found if they beat it.

    They have to by some standard errors: their gain is in expected losses, its error that of the losses themselves,
    sample by sample. The search has looked at many cuts, and would otherwise follow the luck of the samples. And they
    may not lose more on the samples as they are: where that differs, the expectation is not to be believed.
    """
    published, alike = search.schedules(cheap=True)
    found = search.best([published, alike, ranking.loosest, *ranking.single_exits])
    plain = min([published, *ranking.single_exits], key=search.value)
    if not np.isfinite(search.value(plain)):
        return found
    rows = np.arange(ranking.samples)
    now, before = ranking.exits_of(found), ranking.exits_of(plain)
    gain = float((expected[rows, before] - expected[rows, now]).mean())
    seen = losses[rows, before] - losses[rows, now]
    error = float(seen.std()) / ranking.samples**0.5
    unspent = float(costs[before].mean() - costs[now].mean()) > _ALIKE * costs[-1]
    beats = gain > (_CLEARLY_CHEAPER if unspent else _CLEARLY) * error and float(seen.mean()) >= 0
    return found if beats else plain


def _point(ranking: Ranking, cuts: Cuts, losses: Values, costs: Values) -> Point:
    exits = ranking.exits_of(cuts)
    mean_loss = float(losses[np.arange(ranking.samples), exits].mean())
    return Point(ranking.thresholds(cuts), mean_cost(exits, costs), mean_loss)


def _spread(costs: Values, scores: Array) -> Values:
    return np.asarray(np.broadcast_to(costs, scores.shape), dtype=np.float64)

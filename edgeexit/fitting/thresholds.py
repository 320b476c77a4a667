"""Chooses the K-1 thresholds for a goal on the choosing samples, all together.

Thresholds must do well on new samples, so they are chosen on expected losses (see `smoothing`). Thresholds that need
no search (a published schedule, or one exit for all samples) are used unless the search finds significantly better
ones. The bound of the goal, on mean cost or mean loss, holds for the observed losses and costs of the choosing samples.
"""

from decimal import ROUND_CEILING, Context
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.frontier import Point
from edgeexit.fitting.ranking import Positions, Ranking
from edgeexit.fitting.readout_dataset import Values
from edgeexit.fitting.search import Limit, Search
from edgeexit.fitting.smoothing import expected_losses
from edgeexit.policies.readout import Array

_ROUNDING = 1e-9
_MIN_GAIN, _MIN_GAIN_IF_CHEAPER = 1.0, 3.0
"""Standard errors of loss by which positions from the search must be better than positions that need no search.

The second number applies if the search spends less: then it must be clearer that deeper exits would not help.
"""
_SAME_COST = 0.01
"""Difference in mean cost, as a fraction of the full cost, that is ignored."""


class LossOutOfReachError(FittingError):
    """No thresholds have a mean loss as low as the goal requires."""

    def __init__(self, max_loss: float, lowest: float) -> None:
        """State the required loss and the lowest possible one."""
        super().__init__(f"a mean loss of {max_loss:g} cannot be reached: the lowest possible is {rounded_up(lowest)}")
        self.lowest = lowest


def within_budget(scores: Array, losses: Values, costs: Values, budget: float) -> Point:
    """Return the thresholds of lowest expected loss whose mean cost is at most `budget`.

    `scores` [N, K] of a policy, `losses` [N, K] in [0, 1] of its predictions at each exit, `costs` [K] cumulative.
    Raises FittingError, with the lowest possible cost, for a budget that these scores cannot reach.
    """
    ranking = Ranking(scores)
    lowest = mean_cost(ranking.exits_of(ranking.loosest), costs)
    if not budget >= lowest:
        raise FittingError(f"a mean cost of {budget:g} cannot be reached: the lowest possible is {rounded_up(lowest)}")
    expected = expected_losses(scores, losses)
    # The search permits rounding errors, so its first result can exceed the budget slightly.
    for slack in (0.0, _ROUNDING):
        search = Search(ranking, expected, [Limit(_per_sample(costs, scores), budget * (1 - slack))])
        positions = _of_lowest_loss(search, ranking, expected, losses, costs)
        if mean_cost(ranking.exits_of(positions), costs) <= budget:
            return _point(ranking, positions, losses, costs)
    return _point(ranking, ranking.loosest, losses, costs)


def within_loss(scores: Array, losses: Values, costs: Values, max_loss: float) -> Point:
    """Return the thresholds of lowest mean cost whose mean loss is at most `max_loss`; arguments as in `within_budget`.

    Raises LossOutOfReachError, with the lowest loss found, if no thresholds with such a loss are found.
    """
    ranking = Ranking(scores)
    spread, deepest = _per_sample(costs, scores), (0,) * (ranking.exits - 1)
    expected = expected_losses(scores, losses)
    limits = [Limit(losses, max_loss + _ROUNDING), Limit(expected, max_loss + _ROUNDING)]
    if losses[:, -1].mean() > max_loss + _ROUNDING:
        # Full depth does not satisfy the bound, so the search starts from the thresholds of lowest loss.
        best = Search(ranking, losses, []).best([deepest, ranking.loosest])
        lowest = _point(ranking, best, losses, costs)
        if not lowest.mean_loss <= max_loss + _ROUNDING:
            raise LossOutOfReachError(max_loss, lowest.mean_loss)
        return _point(ranking, Search(ranking, spread, limits[:1]).best([best]), losses, costs)
    search = Search(ranking, spread, limits)
    published, uniform = search.schedules(cheap=False)
    found = search.best([published, uniform, deepest, *ranking.single_exits])
    plain = min([published, *ranking.single_exits], key=search.value)
    saved = (search.value(plain) - search.value(found)) / ranking.samples
    return _point(ranking, plain if saved <= _SAME_COST * costs[-1] else found, losses, costs)


def mean_cost(exits: npt.NDArray[np.integer], costs: Values) -> float:
    """Return the mean of `costs` [K] over the exits [N] of the samples, with a single rounding at the end.

    A sum of rounded floats could exceed a budget that the exact mean meets.
    """
    counts = np.bincount(exits, minlength=len(costs))
    total = sum(int(count) * Fraction(float(cost)) for count, cost in zip(counts, costs, strict=True))
    return float(total / len(exits))


def rounded_up(value: float) -> str:
    """Return a number with 6 significant digits, rounded up, so that a value in an error message can be reached."""
    if value == 0:
        return "0"
    return f"{Context(prec=6, rounding=ROUND_CEILING).create_decimal(value).normalize():f}"


def _of_lowest_loss(search: Search, ranking: Ranking, expected: Values, losses: Values, costs: Values) -> Positions:
    """Return the best positions that need no search, or those of the search if they are significantly better.

    Positions that need no search are the geometric schedule and one exit for all samples. The search tries many
    positions and would overfit, so its gain in expected loss must exceed some standard errors of the observed losses.
    Its observed loss must not be higher either: where expected and observed losses disagree, the regression is not
    trusted.
    """
    published, uniform = search.schedules(cheap=True)
    found = search.best([published, uniform, ranking.loosest, *ranking.single_exits])
    plain = min([published, *ranking.single_exits], key=search.value)
    if not np.isfinite(search.value(plain)):
        return found
    rows = np.arange(ranking.samples)
    now, before = ranking.exits_of(found), ranking.exits_of(plain)
    gain = float((expected[rows, before] - expected[rows, now]).mean())
    observed = losses[rows, before] - losses[rows, now]
    error = float(observed.std()) / ranking.samples**0.5
    unspent = float(costs[before].mean() - costs[now].mean()) > _SAME_COST * costs[-1]
    beats = gain > (_MIN_GAIN_IF_CHEAPER if unspent else _MIN_GAIN) * error and float(observed.mean()) >= 0
    return found if beats else plain


def _point(ranking: Ranking, positions: Positions, losses: Values, costs: Values) -> Point:
    exits = ranking.exits_of(positions)
    mean_loss = float(losses[np.arange(ranking.samples), exits].mean())
    return Point(ranking.thresholds(positions), mean_cost(exits, costs), mean_loss)


def _per_sample(costs: Values, scores: Array) -> Values:
    return np.asarray(np.broadcast_to(costs, scores.shape), dtype=np.float64)

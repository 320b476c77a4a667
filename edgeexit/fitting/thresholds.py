"""The K-1 thresholds for a goal on the samples that choose, all together."""

from edgeexit.errors import FittingError
from edgeexit.fitting.evidence import Values
from edgeexit.fitting.frontier import Point, frontier
from edgeexit.policies.readout import Array


def within_budget(scores: Array, losses: Values, costs: Values, budget: float) -> Point:
    """Return the thresholds of least mean loss whose mean cost is at most `budget`.

    `scores` [N, K] of a policy, `losses` [N, K] in [0, 1] of answering at each exit, `costs` [K] cumulative. Raises
    FittingError for a budget below what the first exit costs, which is the least there is.
    """
    if budget < costs[0]:
        raise FittingError(f"a mean cost of {budget:g} cannot be reached: the first exit alone costs {costs[0]:g}")
    affordable = [point for point in frontier(scores, losses, costs) if point.mean_cost <= budget]
    return min(affordable, key=lambda point: (point.mean_loss, point.mean_cost))


def within_loss(scores: Array, losses: Values, costs: Values, most_loss: float) -> Point:
    """Return the thresholds of least mean cost whose mean loss is at most `most_loss`; arguments as above.

    Raises FittingError where even full depth loses more.
    """
    good = [point for point in frontier(scores, losses, costs) if point.mean_loss <= most_loss]
    if not good:
        raise FittingError(f"a mean loss of {most_loss:g} is below what the final exit loses")
    return min(good, key=lambda point: (point.mean_cost, point.mean_loss))

"""Chooses among the certified points of several paths the one to put in force. Pure functions."""

from collections.abc import Sequence
from math import sqrt
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.frontier import Thresholds
from edgeexit.policies import Policy
from edgeexit_calibration.recalibrate.audits import Audits, mean_costs, point_exits, simulated
from edgeexit_calibration.recalibrate.tracked_path import TrackedPath

_CLEARLY: Final = 3
"""Standard errors by which the policy in force is below a bound before it is replaced."""


class ChosenPoint(NamedTuple):
    """A certified point that is to replace the policy in force."""

    path: TrackedPath
    point: int
    """Index of the point in its path."""
    cost: float
    """Its mean cost on the compared audits, in the unit of the costs."""
    cost_before: float
    """The mean cost of the policy in force."""
    exits: npt.NDArray[Any]
    """[N] exit of each compared audit."""

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds of the point."""
        return self.path.thresholds[self.point]


def choose_point(
    policy: Policy,
    paths: Sequence[TrackedPath],
    audits: Audits,
    *,
    costs: Sequence[float],
    min_gain: float,
    min_final_exits: float = 0.0,
) -> ChosenPoint | None:
    """Return the cheapest certified point if it is clearly cheaper than the policy in force, else None.

    Args:
        policy: the one in force.
        paths: at least one.
        audits: at least one; the costs are compared on them.
        costs: [K] cumulative cost of each exit.
        min_gain: part of the cost that the point must save.
        min_final_exits: fraction of these audits that must at least reach the final exit.

    """
    best = _cheapest(policy, paths, audits, costs, min_final_exits)
    return None if best.cost > (1 - min_gain) * best.cost_before else best


def point_within_bounds(
    policy: Policy, paths: Sequence[TrackedPath], audits: Audits, *, costs: Sequence[float], min_final_exits: float
) -> ChosenPoint | None:
    """Return the cheapest certified point if fewer audits than a bound reach the final exit in force, else None.

    The arguments are those of `choose_point`. The fraction of the policy in force must be clearly below the bound, by
    three standard errors, so that the policy does not change to and fro.
    """
    if not min_final_exits:
        return None
    exits = point_exits(simulated(policy, audits).scores, [policy.thresholds])
    final = float((exits == policy.exits - 1).mean())
    error = sqrt(min_final_exits * (1 - min_final_exits) / len(audits.ids))
    if final >= min_final_exits - _CLEARLY * error:
        return None
    return _cheapest(policy, paths, audits, costs, min_final_exits)


def _cheapest(
    policy: Policy, paths: Sequence[TrackedPath], audits: Audits, costs: Sequence[float], min_final_exits: float
) -> ChosenPoint:
    """Return the cheapest certified point under which enough audits reach the final exit; all do at full depth."""
    places = [
        (path, point)
        for path in paths
        for point in range(0 if min_final_exits else path.test.certified, path.test.certified + 1)
    ]
    points = [path.thresholds[point] for path, point in places]
    exits = point_exits(simulated(policy, audits).scores, [*points, policy.thresholds])
    means = mean_costs(exits, costs)
    finals = (exits == policy.exits - 1).mean(axis=0)
    best = int(np.where(finals >= min_final_exits, means, np.inf)[:-1].argmin())
    return ChosenPoint(*places[best], float(means[best]), float(means[-1]), exits[:, best])

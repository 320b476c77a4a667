"""Chooses among the certified points of several paths the one to put in force. Pure functions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from edgeexit.fitting.frontier import Thresholds
from edgeexit.policies import Policy
from edgeexit_calibration.recalibrate.audits import Audits, mean_costs, point_exits, simulated
from edgeexit_calibration.recalibrate.tracked_path import TrackedPath


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
    policy: Policy, paths: Sequence[TrackedPath], audits: Audits, *, costs: Sequence[float], min_gain: float
) -> ChosenPoint | None:
    """Return the cheapest certified point if it is clearly cheaper than the policy in force, else None.

    Args:
        policy: the one in force.
        paths: at least one.
        audits: at least one; the costs are compared on them.
        costs: [K] cumulative cost of each exit.
        min_gain: part of the cost that the point must save.

    """
    points = [path.boldest for path in paths]
    exits = point_exits(simulated(policy, audits).scores, [*points, policy.thresholds])
    means = mean_costs(exits, costs)
    best = int(means[:-1].argmin())
    if means[best] > (1 - min_gain) * means[-1]:
        return None
    path = paths[best]
    return ChosenPoint(path, path.test.certified, float(means[best]), float(means[-1]), exits[:, best])

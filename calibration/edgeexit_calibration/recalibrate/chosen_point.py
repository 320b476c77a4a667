"""Chooses among the certified points of several paths the one to put in force. Pure functions.

Without a budget, it is the cheapest one. With a budget, a bound on the mean cost, it is the safest one that meets the
budget, or else the cheapest one. To be put in force, it must be clearly better than the policy in force, so that
policies do not alternate because of the noise in the compared audits. Points under which fewer samples reach the final
exit than a user has allowed are left out.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.frontier import Thresholds
from edgeexit.policies import Policy
from edgeexit.policies.document import Loss
from edgeexit_calibration.recalibrate.audits import Audits, outcomes, point_exits, simulated
from edgeexit_calibration.recalibrate.tracked_path import TrackedPath

_CLEARLY: Final = 3
"""Standard errors by which the policy in force is below a bound before it is replaced, and by which a point is below
the budget before it replaces one that is below it, too."""
BUDGET_MARGIN: Final = 0.03
"""Part of the budget by which the mean cost of a point that is put in force lies below it. A policy in force may use
all of the budget."""
_CLEARLY_SAFER: Final = 2
"""Standard errors by which the mean loss of a clearly safer policy is lower, on the same audits."""


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
    def kind(self) -> Literal["bolder", "safer"]:
        """Whether it saves cost."""
        return "bolder" if self.cost < self.cost_before else "safer"

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
    loss: Loss,
    budget: float | None = None,
    min_final_exits: float = 0.0,
) -> ChosenPoint | None:
    """Return the certified point that is to replace the policy in force, or None if none is clearly better.

    Without a budget, and while the policy in force exceeds it and no point meets it, a point is clearly better if it
    saves the part `min_gain` of the cost. If the policy in force exceeds the budget and points meet it, the safest of
    them is. If the policy in force meets it, the safest of the points is that meet it clearly, by three standard errors
    of their cost, provided that its loss is lower by two standard errors on the same audits.

    Args:
        policy: the one in force.
        paths: at least one.
        audits: at least one, with labels if the loss needs them; costs and losses are compared on them.
        costs: [K] cumulative cost of each exit.
        min_gain: part of the cost that a point must save to be put in force for its cost.
        loss: what is compared to find the safest point.
        budget: bound on the mean cost, in the unit of the costs; None: the cost is to be as low as possible.
        min_final_exits: fraction of these audits that must at least reach the final exit.

    """
    compared = _compared(policy, paths, audits, costs, min_final_exits)
    before = compared.means[-1]
    if budget is not None:
        margin = 0 if before > budget else _CLEARLY * compared.errors[:-1]
        within = np.flatnonzero(compared.allowed & meets_budget(compared.means[:-1] + margin, budget))
        if len(within):
            points = [*(path.thresholds[point] for path, point in compared.places), policy.thresholds]
            losses = outcomes(policy, audits, points, loss).losses
            safest = _safest(within, compared.means, losses)
            is_better = before > budget or _is_safer(losses[:, safest], losses[:, -1])
            return compared.chosen(safest) if is_better else None
        if before <= budget:
            return None
    cheapest = compared.cheapest
    return None if compared.means[cheapest] > (1 - min_gain) * before else compared.chosen(cheapest)


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
    compared = _compared(policy, paths, audits, costs, min_final_exits)
    return compared.chosen(compared.cheapest)


def meets_budget(means: npt.NDArray[Any], budget: float) -> npt.NDArray[np.bool_]:
    """Return which of the policies with mean costs [P] may be put in force because they meet the budget."""
    return np.asarray(means <= (1 - BUDGET_MARGIN) * budget)


class _Compared(NamedTuple):
    """The certified points of all paths, and the policy in force, on the same audits."""

    places: list[tuple[TrackedPath, int]]
    """[P] path and index of each point."""
    exits: npt.NDArray[Any]
    """[N, P + 1] exit of each audit, at last under the policy in force."""
    means: npt.NDArray[Any]
    """[P + 1] mean cost."""
    errors: npt.NDArray[Any]
    """[P + 1] standard error of the mean cost."""
    allowed: npt.NDArray[np.bool_]
    """[P] whether enough audits reach the final exit; at full depth, all do."""

    @property
    def cheapest(self) -> int:
        return int(np.where(self.allowed, self.means[:-1], np.inf).argmin())

    def chosen(self, place: int) -> ChosenPoint:
        return ChosenPoint(*self.places[place], float(self.means[place]), float(self.means[-1]), self.exits[:, place])


def _compared(
    policy: Policy, paths: Sequence[TrackedPath], audits: Audits, costs: Sequence[float], min_final_exits: float
) -> _Compared:
    places = [(path, point) for path in paths for point in range(path.test.certified + 1)]
    points = [path.thresholds[point] for path, point in places]
    exits = point_exits(simulated(policy, audits).scores, [*points, policy.thresholds])
    mix = np.stack([(exits == k).mean(axis=0) for k in range(policy.exits)])
    cumulative = np.array(costs)
    means = cumulative @ mix
    errors = np.sqrt((mix * (cumulative[:, None] - means) ** 2).sum(axis=0) / len(exits))
    return _Compared(places, exits, means, errors, mix[-1, :-1] >= min_final_exits)


def _safest(places: npt.NDArray[np.intp], means: npt.NDArray[Any], losses: npt.NDArray[np.float64]) -> int:
    """Return the place with the lowest mean loss; of several, the most expensive one, because it exits latest."""
    order = np.lexsort((-means[places], losses[:, places].mean(axis=0)))
    return int(places[order[0]])


def _is_safer(losses: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> bool:
    """Return whether losses [N] are clearly lower than the other ones [N] of the same samples."""
    differences = others - losses
    return bool(differences.mean() > _CLEARLY_SAFER * differences.std() / sqrt(len(differences)))

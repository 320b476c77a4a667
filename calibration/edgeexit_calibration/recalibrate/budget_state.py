"""Whether the policy of a cohort meets its budget, and what would make it meet it. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edgeexit_calibration.recalibrate.chosen_point import meets_budget


class PointUnderTest(NamedTuple):
    """A point of a path under test, on the newest audits."""

    cost: float
    """Its mean cost, in the unit of the costs."""
    audits_missing: int | None
    """Audits that certify it if its loss stays as it is; 0: it is certified; None: no number does."""


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """The budget of a cohort, and the policies that would meet it."""

    budget_ms: float
    """Bound on the mean cost of a sample."""
    cost_ms: float | None
    """Mean cost of the policy in force on the newest audits; null without audits, and if the costs are not in ms."""
    is_met: bool | None
    """null if `cost_ms` is."""
    audits_missing: int | None
    """Audits that certify a policy within the budget; null if it is met, and if no policy under test would meet it."""
    lowest_ms: float | None
    """Mean cost of the cheapest policy under test, certified or not; null if `cost_ms` is."""


def budget_state(budget_ms: float, cost_ms: float | None, points: Sequence[PointUnderTest]) -> BudgetState:
    """Return the state of a budget.

    Args:
        budget_ms: the budget.
        cost_ms: mean cost of the policy in force; None if it is not known in ms.
        points: of all paths under test; their costs are in ms if `cost_ms` is known.

    """
    if cost_ms is None:
        return BudgetState(budget_ms=budget_ms, cost_ms=None, is_met=None, audits_missing=None, lowest_ms=None)
    is_met = cost_ms <= budget_ms
    within = meets_budget(np.array([point.cost for point in points]), budget_ms)
    missing = [
        point.audits_missing
        for point, is_within in zip(points, within, strict=True)
        if is_within and point.audits_missing is not None
    ]
    return BudgetState(
        budget_ms=budget_ms,
        cost_ms=cost_ms,
        is_met=is_met,
        audits_missing=None if is_met else min(missing, default=None),
        lowest_ms=min((point.cost for point in points), default=cost_ms),
    )

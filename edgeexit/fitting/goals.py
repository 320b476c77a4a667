"""What a fit is asked for: one of three goals, and what came of it."""

from math import isfinite
from typing import Literal

import msgspec

from edgeexit.errors import FittingError
from edgeexit.policies import Certificate, Policy


class Budget(msgspec.Struct, frozen=True, kw_only=True, tag="budget"):
    """The least loss whose mean cost is within `cost`, in the unit of the costs."""

    cost: float


class MaxDrop(msgspec.Struct, frozen=True, kw_only=True, tag="max-drop"):
    """The least cost whose mean loss is at most `drop` above the final exit's; 0 is BEEM's paired rule.

    A drop below 0 asks for more than the final exit gives: ensembles, and exits that know better, may have it.
    """

    drop: float


class MaxRisk(msgspec.Struct, frozen=True, kw_only=True, tag="max-risk"):
    """The least cost whose disagreement with the final exit is certified to be at most `risk`, but for `delta`."""

    risk: float
    delta: float = 0.1


class BeemRule(msgspec.Struct, frozen=True, kw_only=True, tag="beem-rule"):
    """BEEM's own ways to its thresholds: exit by exit, no dearer or worse than the final exit by this rule."""

    rule: Literal["paired", "error-rate"]


Goal = Budget | MaxDrop | MaxRisk


def require_goal(goal: Goal) -> None:
    """Raise FittingError, in one line, for a figure that no goal can have, and for what is no goal."""
    if not isinstance(goal, Budget | MaxDrop | MaxRisk):
        raise FittingError(f"goal {goal!r} must be a Budget, a MaxDrop or a MaxRisk")
    if isinstance(goal, Budget) and not (isfinite(goal.cost) and goal.cost > 0):
        raise FittingError(f"budget {goal.cost:g} must be a figure above 0, in the unit of the costs")
    if isinstance(goal, MaxDrop) and not -1 < goal.drop <= 1:
        raise FittingError(f"drop {goal.drop:g} must lie between -1 and 1, e.g. 0.01 for one point of accuracy")
    if isinstance(goal, MaxRisk):
        for name, value in (("risk", goal.risk), ("delta", goal.delta)):
            if not 0 < value < 1:
                raise FittingError(f"{name} {value:g} must lie between 0 and 1, e.g. 0.05")


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy does on a set of samples."""

    samples: int
    mean_cost: float
    mean_loss: float
    """Share of wrong answers, or of those that are not the final exit's where there are no labels."""
    final_loss: float
    """The same of the final exit alone."""
    disagreement: float
    """Share of answers that are not the final exit's."""
    exit_rates: tuple[float, ...]
    """[K]"""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted policy and what is known of it."""

    policy: Policy
    goal: Goal | BeemRule
    expected: Expectation
    """On the samples that certify, where there is a certificate; otherwise on those that chose the policy."""
    certificate: Certificate | None = None

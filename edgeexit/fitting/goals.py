"""The goals that a policy can be fitted for, and the result of a fit."""

from math import isfinite

import msgspec

from edgeexit.errors import FittingError
from edgeexit.policies import Certificate, Policy


class Budget(msgspec.Struct, frozen=True, kw_only=True, tag="budget"):
    """Minimise the mean loss, at a mean cost of at most `cost`, in the unit of the costs of the dataset."""

    cost: float


class MaxDrop(msgspec.Struct, frozen=True, kw_only=True, tag="max-drop"):
    """Minimise the mean cost, at a mean loss of at most `drop` above the final exit's.

    A negative drop requires a lower loss than the final exit's, which ensembles and some early exits can reach.
    """

    drop: float


class MaxRisk(msgspec.Struct, frozen=True, kw_only=True, tag="max-risk"):
    """Minimise the mean cost, with a certificate that disagreement with the final exit is at most `risk`.

    The certificate is wrong with probability at most `delta`.
    """

    risk: float
    delta: float = 0.1


class KindRule(msgspec.Struct, frozen=True, kw_only=True, tag="rule"):
    """A threshold rule of a kind of policy, used instead of a goal."""

    kind: str
    """A name in `FITTING_KINDS`."""
    rule: str
    """A name in `FittingKind.rules` of that kind."""


Goal = Budget | MaxDrop | MaxRisk


def require_goal(goal: Goal) -> None:
    """Raise FittingError for a value that a goal cannot have, and for an object that is not a goal."""
    if not isinstance(goal, Budget | MaxDrop | MaxRisk):
        raise FittingError(f"goal {goal!r} must be a Budget, a MaxDrop or a MaxRisk")
    if isinstance(goal, Budget) and not (isfinite(goal.cost) and goal.cost > 0):
        raise FittingError(f"budget {goal.cost:g} must be a finite number above 0, in the unit of the costs")
    if isinstance(goal, MaxDrop) and not -1 < goal.drop <= 1:
        raise FittingError(
            f"drop {goal.drop:g} must be between -1 and 1, e.g. 0.01 for one percentage point of accuracy"
        )
    if isinstance(goal, MaxRisk):
        for name, value in (("risk", goal.risk), ("delta", goal.delta)):
            if not 0 < value < 1:
                raise FittingError(f"{name} {value:g} must be between 0 and 1, e.g. 0.05")


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """Cost and loss of a policy on a set of samples."""

    samples: int
    mean_cost: float
    """In the unit of the costs of the dataset."""
    mean_loss: float
    """Fraction of wrong predictions; without labels, of predictions that differ from the final exit's. For
    segmentation, these are mean fractions of pixels."""
    final_loss: float
    """`mean_loss` of the final exit alone."""
    disagreement: float
    """Fraction of predictions (segmentation: of pixels) that differ from the final exit's."""
    exit_rates: tuple[float, ...]
    """[K] fraction of the samples that exit at each exit."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted policy, its goal, and its cost and loss."""

    policy: Policy
    goal: Goal | KindRule
    expected: Expectation
    """Measured on the certifying samples if there is a certificate, otherwise on the samples that chose the policy."""
    certificate: Certificate | None = None
    """None unless the goal is `MaxRisk`."""

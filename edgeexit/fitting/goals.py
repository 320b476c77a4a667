"""What a fit is asked for: one of three goals, and what came of it."""

import msgspec

from edgeexit.policies import AnyPolicy, Certificate


class Budget(msgspec.Struct, frozen=True, kw_only=True, tag="budget"):
    """The least loss whose mean cost is within `cost`, in the unit of the costs."""

    cost: float


class MaxDrop(msgspec.Struct, frozen=True, kw_only=True, tag="max-drop"):
    """The least cost whose mean loss is at most `drop` above the final exit's; 0 is BEEM's paired rule."""

    drop: float


class MaxRisk(msgspec.Struct, frozen=True, kw_only=True, tag="max-risk"):
    """The least cost whose disagreement with the final exit is certified to be at most `risk`, but for `delta`."""

    risk: float
    delta: float = 0.1


Goal = Budget | MaxDrop | MaxRisk


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

    policy: AnyPolicy
    goal: Goal
    expected: Expectation
    """On the samples that certify, where there is a certificate; otherwise on those that chose the policy."""
    certificate: Certificate | None = None

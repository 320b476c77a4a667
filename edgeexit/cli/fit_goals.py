"""The options of `edgeexit fit` that state a goal, turned into one, with an error that says what to give instead."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeexit.errors import FittingError

if TYPE_CHECKING:
    from edgeexit.bundle import Costs
    from edgeexit.fitting import BeemRule, Goal

AUTO = "auto"

_DEFAULT_RISK = 0.05
_DEFAULT_DELTA = 0.1
_NAMED_WEIGHTS = ("accuracy", "cost")


def require_policy_name(policy: str) -> None:
    """Raise FittingError for a policy that neither a kind nor `auto` is."""
    from edgeexit.policies import KINDS

    if policy != AUTO and policy not in KINDS:
        raise FittingError(f"policy '{policy}' is unknown; there are {', '.join(KINDS)}, and {AUTO} to compare them")


def stated_goal(
    bundle: Path,
    costs: "Costs",
    policy: str,
    *,
    budget_ms: float | None,
    speedup: float | None,
    max_drop: float | None,
    max_risk: float | None,
    delta: float | None,
    rule: str | None,
) -> "Goal | BeemRule":
    """Return the one goal that is stated; none: `MaxRisk` with its defaults. Raises FittingError."""
    from edgeexit.fitting import MaxDrop, MaxRisk

    options = {
        "--budget-ms": budget_ms, "--speedup": speedup, "--max-drop": max_drop, "--max-risk": max_risk, "--rule": rule
    }  # fmt: skip
    stated = [name for name, value in options.items() if value is not None]
    if len(stated) > 1:
        raise FittingError(f"{' and '.join(stated)} are goals of their own; give one of them")
    if delta is not None and stated not in ([], ["--max-risk"]):
        raise FittingError(f"--delta goes with --max-risk, not with {stated[0]}")
    if budget_ms is not None:
        return _budget(bundle, costs, budget_ms)
    if speedup is not None:
        return _budget_of_speedup(costs, speedup)
    if max_drop is not None:
        return _checked("--max-drop", MaxDrop(drop=max_drop))
    if rule is not None:
        return _rule(rule, policy)
    risk = MaxRisk(
        risk=_DEFAULT_RISK if max_risk is None else max_risk, delta=_DEFAULT_DELTA if delta is None else delta
    )
    return _checked("--max-risk" if delta is None else "--max-risk, --delta", risk)


def _checked(option: str, goal: "Goal") -> "Goal":
    from edgeexit.fitting.goals import require_goal

    try:
        require_goal(goal)
    except FittingError as error:
        raise FittingError(f"{option}: {error}") from error
    return goal


def _budget(bundle: Path, costs: "Costs", budget_ms: float) -> "Goal":
    from edgeexit.fitting import Budget

    if costs.unit != "ms":
        raise FittingError(
            f"--budget-ms {budget_ms:g} needs measured costs: run `edgeexit profile {bundle}` on the device first, "
            "or give --speedup"
        )
    first = costs.cumulative[0]
    if not budget_ms >= first:
        least = Context(prec=6, rounding=ROUND_CEILING).create_decimal(first).normalize()  # asking for it works
        raise FittingError(f"--budget-ms {budget_ms:g} cannot be reached: the first exit alone costs {least:f} ms")
    return _checked("--budget-ms", Budget(cost=budget_ms))


def _budget_of_speedup(costs: "Costs", speedup: float) -> "Goal":
    from edgeexit.fitting import Budget

    if not (math.isfinite(speedup) and speedup >= 1):
        raise FittingError(f"--speedup {speedup:g} must be a figure of at least 1, e.g. 2 for half the cost")
    first, full = costs.cumulative[0], costs.cumulative[-1]
    if speedup > full / first:
        most = Context(prec=4, rounding=ROUND_FLOOR).create_decimal(full / first)  # so that asking for it works
        raise FittingError(f"--speedup {speedup:g} cannot be reached: the first exit alone gives {most.normalize():f}")
    return Budget(cost=max(full / speedup, float(first)))


def _rule(rule: str, policy: str) -> "BeemRule":
    from edgeexit.fitting import BeemRule

    if policy != "beem":
        raise FittingError(f"--rule is beem's; give --policy beem, or another goal for '{policy}'")
    try:
        return msgspec.convert({"type": "beem-rule", "rule": rule}, BeemRule)
    except msgspec.ValidationError as error:
        raise FittingError(f"--rule '{rule}' is unknown; there are paired and error-rate") from error


def own_weights(text: str | None, policy: str) -> str | tuple[float, ...]:
    """Return BEEM's weights as `fit_policy` takes them. Raises FittingError."""
    if text is None:
        return _NAMED_WEIGHTS[0]
    if policy not in {"beem", AUTO}:
        raise FittingError(f"--weights are beem's; '{policy}' has none")
    if text in _NAMED_WEIGHTS:
        return text
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise FittingError(
            f"--weights '{text}' must be accuracy, cost, or one number an exit such as 0.6,0.7,0.9,1"
        ) from error

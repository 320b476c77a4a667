"""Turns the options of `edgeexit fit` into a goal and weights. Errors state which option to give instead."""

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from pathlib import Path
from typing import TYPE_CHECKING

from edgeexit.cli.rejected_profile import rejected_profile
from edgeexit.errors import FittingError

if TYPE_CHECKING:
    from edgeexit.bundle import Costs
    from edgeexit.fitting import Goal, KindRule

AUTO = "auto"
"""The value of `--policy` that compares all kinds."""
EXAMPLE_WEIGHTS = "0.6,0.7,0.9,1"

_DEFAULT_RISK = 0.05
_DEFAULT_DELTA = 0.1


def require_policy_name(policy: str) -> None:
    """Raise FittingError unless `policy` is a kind of policy or `auto`."""
    from edgeexit.fitting import require_fitting_kind

    if policy != AUTO:
        try:
            require_fitting_kind(policy)
        except FittingError as error:
            raise FittingError(f"--policy: {error}; or {AUTO} to compare all kinds") from error


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
) -> "Goal | KindRule":
    """Return the goal that the options state, by default `MaxRisk`.

    `costs` are those of `bundle`. Raises FittingError for more than one goal, for values out of range, and for a
    budget or speed-up that the first exit alone cannot reach.
    """
    from edgeexit.fitting import MaxDrop

    options = {
        "--budget-ms": budget_ms, "--speedup": speedup, "--max-drop": max_drop, "--max-risk": max_risk, "--rule": rule
    }  # fmt: skip
    stated = [name for name, value in options.items() if value is not None]
    if len(stated) > 1:
        raise FittingError(f"{' and '.join(stated)} are different goals; give one of them")
    if delta is not None and stated not in ([], ["--max-risk"]):
        raise FittingError(f"--delta belongs to --max-risk, not to {stated[0]}")
    if budget_ms is not None:
        return _budget(bundle, costs, budget_ms)
    if speedup is not None:
        return _budget_of_speedup(costs, speedup)
    if max_drop is not None:
        return checked_goal("--max-drop", MaxDrop(drop=max_drop))
    if rule is not None:
        return _rule(rule, policy)
    return risk_goal(max_risk, delta)


def risk_goal(max_risk: float | None, delta: float | None) -> "Goal":
    """Return the goal of `--max-risk` and `--delta`. Raises FittingError for values out of range."""
    from edgeexit.fitting import MaxRisk

    risk = MaxRisk(
        risk=_DEFAULT_RISK if max_risk is None else max_risk, delta=_DEFAULT_DELTA if delta is None else delta
    )
    return checked_goal("--max-risk" if delta is None else "--max-risk, --delta", risk)


def checked_goal(option: str, goal: "Goal") -> "Goal":
    """Return a goal. Raises FittingError, which names the option and the value, for a value that it cannot have."""
    from edgeexit.fitting.goals import require_goal

    try:
        require_goal(goal)
    except FittingError as error:
        raise FittingError(f"{option}: {error}") from error
    return goal


def _budget(bundle: Path, costs: "Costs", budget_ms: float) -> "Goal":
    from edgeexit.fitting import Budget

    if costs.rejected:
        raise FittingError(f"--budget-ms {budget_ms:g} needs measured costs, but {rejected_profile(bundle, costs)}")
    if costs.unit != "ms":
        raise FittingError(
            f"--budget-ms {budget_ms:g} needs measured costs: run `edgeexit profile {bundle}` on the device first, "
            "or give --speedup"
        )
    first = costs.cumulative[0]
    if not budget_ms >= first:
        lowest = Context(prec=6, rounding=ROUND_CEILING).create_decimal(first).normalize()  # rounded to a valid budget
        raise FittingError(f"--budget-ms {budget_ms:g} cannot be reached: the first exit alone costs {lowest:f} ms")
    return checked_goal("--budget-ms", Budget(cost=budget_ms))


def _budget_of_speedup(costs: "Costs", speedup: float) -> "Goal":
    from edgeexit.fitting import Budget

    if not (math.isfinite(speedup) and speedup >= 1):
        raise FittingError(f"--speedup {speedup:g} must be at least 1, e.g. 2 for half the cost")
    first, full = costs.cumulative[0], costs.cumulative[-1]
    if speedup > full / first:
        highest = Context(prec=4, rounding=ROUND_FLOOR).create_decimal(full / first)  # rounded to a valid speed-up
        raise FittingError(
            f"--speedup {speedup:g} cannot be reached: the first exit alone gives {highest.normalize():f}"
        )
    return Budget(cost=max(full / speedup, float(first)))


def _rule(rule: str, policy: str) -> "KindRule":
    from edgeexit.fitting import FITTING_KINDS, KindRule

    rules = () if policy == AUTO else tuple(FITTING_KINDS[policy].rules)
    if not rules:
        raise _not_available("--rule", policy, (name for name, kind in FITTING_KINDS.items() if kind.rules))
    if rule not in rules:
        raise FittingError(f"--rule '{rule}' is unknown; rules of {policy}: {', '.join(rules)}")
    return KindRule(kind=policy, rule=rule)


def stated_weights(text: str | None, policy: str) -> str | tuple[float, ...] | None:
    """Return `--weights` in the form of `FitOptions.weights`.

    Raises FittingError for text that is neither a name nor numbers, and for policies without weights.
    """
    from edgeexit.fitting import FITTING_KINDS

    if text is None:
        return None
    kinds = FITTING_KINDS.values() if policy == AUTO else [FITTING_KINDS[policy]]
    names = [name for kind in kinds for name in kind.weights]
    if not names:
        raise _not_available("--weights", policy, (name for name, kind in FITTING_KINDS.items() if kind.weights))
    if text in names:
        return text
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise FittingError(
            f"--weights '{text}' must be {', '.join(names)}, or one number per exit, e.g. {EXAMPLE_WEIGHTS}"
        ) from error


def _not_available(option: str, policy: str, kinds: Iterable[str]) -> FittingError:
    return FittingError(f"{option} is not available with --policy {policy}; policies that have it: {', '.join(kinds)}")

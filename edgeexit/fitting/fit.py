"""From evidence and a goal to a fitted policy."""

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.certify import certified_thresholds, halves, require_samples
from edgeexit.fitting.evidence import Evidence, require_sound
from edgeexit.fitting.frontier import Point
from edgeexit.fitting.goals import Budget, Expectation, Fit, Goal, MaxDrop, MaxRisk, require_goal
from edgeexit.fitting.outcome import outcome_of
from edgeexit.fitting.templates import TemplateOptions, make_templates
from edgeexit.fitting.thresholds import LossOutOfReachError, rounded_up, within_budget, within_loss
from edgeexit.policies import AnyPolicy, exits_of, simulate


def fit_policy(
    kind: str,
    evidence: Evidence,
    goal: Goal,
    *,
    temperatures: bool = True,
    weights: str | tuple[float, ...] = "accuracy",
    seed: int = 0,
) -> Fit:
    """Return the best policy of a kind found for a goal.

    Args:
        kind: a name of `edgeexit.policies.KINDS`.
        evidence: readouts at temperature 1, with probabilities where the kind reads them or temperatures are fitted.
        goal: budget, drop or risk. Under a risk, one half of the samples chooses and the other certifies.
        temperatures: whether temperatures may be fitted.
        weights: BEEM's: `accuracy`, `cost` or [K] of one's own.
        seed: of the split into halves and of what is learned.

    Raises FittingError: evidence that is not sound, a goal that cannot be reached, too few samples.

    """
    _require_fit(evidence, goal)
    return fit_checked(kind, evidence, goal, temperatures=temperatures, weights=weights, seed=seed)


def fit_checked(
    kind: str, evidence: Evidence, goal: Goal, *, temperatures: bool, weights: str | tuple[float, ...], seed: int
) -> Fit:
    """Do as `fit_policy`, of evidence and a goal that are known to be sound: folds of it may lack a rare class."""
    choosing = evidence
    if isinstance(goal, MaxRisk):
        choosing = evidence.take(halves(len(evidence), seed)[0])
    options = TemplateOptions(budget=meant_cost(choosing, goal), temperatures=temperatures, weights=weights, seed=seed)
    templates = make_templates(kind, choosing, options)
    best = templates[0] if len(templates) == 1 else _best_template(templates, choosing, goal)
    return _with_thresholds(best, evidence.at(best.temperatures), goal, seed)


def fit_thresholds(template: AnyPolicy, evidence: Evidence, goal: Goal, *, seed: int = 0) -> Fit:
    """Return `template` with thresholds for a goal; evidence is under its temperatures. Raises as `fit_policy`."""
    _require_fit(evidence, goal)
    return _with_thresholds(template, evidence, goal, seed)


def _with_thresholds(template: AnyPolicy, evidence: Evidence, goal: Goal, seed: int) -> Fit:
    if isinstance(goal, MaxRisk):
        choosing, certifying = (evidence.take(half) for half in halves(len(evidence), seed))
        thresholds, certificate = certified_thresholds(template, choosing, certifying, goal)
        policy = msgspec.structs.replace(template, thresholds=thresholds)
        return Fit(policy=policy, goal=goal, expected=expect(policy, certifying), certificate=certificate)
    try:
        thresholds = _choose(template, evidence, goal).thresholds
    except LossOutOfReachError as error:
        raise _out_of_reach(error, evidence, goal) from error
    policy = msgspec.structs.replace(template, thresholds=thresholds)
    return Fit(policy=policy, goal=goal, expected=expect(policy, evidence))


def expect(policy: AnyPolicy, evidence: Evidence) -> Expectation:
    """Return what a policy does on evidence under its temperatures."""
    scores, answers = simulate(policy, evidence.readouts)
    exits, losses = exits_of(scores, policy.thresholds), evidence.losses(answers)
    outcome = outcome_of(exits, losses, evidence)
    return Expectation(
        samples=len(evidence),
        mean_cost=outcome.mean_cost,
        mean_loss=outcome.mean_loss,
        final_loss=float(losses[:, -1].mean()),
        disagreement=outcome_of(exits, evidence.disagreement(answers), evidence).mean_loss,
        exit_rates=outcome.rates,
    )


def meant_cost(evidence: Evidence, goal: Goal) -> float:
    """Return the mean cost that a goal comes to: a budget's own, else what confidence needs for it.

    Where confidence cannot keep the goal at any cost, it is the full one.
    """
    if isinstance(goal, Budget):
        return goal.cost
    options = TemplateOptions(budget=evidence.costs[-1], temperatures=False)
    plain = make_templates("confidence", evidence, options)[0]
    try:
        return _choose(plain, evidence, goal).mean_cost
    except LossOutOfReachError:
        return evidence.costs[-1]


def _require_fit(evidence: Evidence, goal: Goal) -> None:
    require_sound(evidence)
    require_goal(goal)
    if isinstance(goal, MaxRisk):
        require_samples(len(evidence), goal, shares=evidence.maps is not None)


def _best_template(templates: Sequence[AnyPolicy], choosing: Evidence, goal: Goal) -> AnyPolicy:
    """Return the candidate whose thresholds do best on the samples that choose, the first where several do."""
    found = [_choose_or_fail(template, choosing.at(template.temperatures), goal) for template in templates]
    ranked = [(_rank(point, goal), k) for k, point in enumerate(found) if isinstance(point, Point)]
    if not ranked:
        failures = [error for error in found if isinstance(error, LossOutOfReachError)]
        raise _out_of_reach(min(failures, key=lambda error: error.least), choosing, goal)
    return templates[min(ranked)[1]]


def _choose_or_fail(template: AnyPolicy, evidence: Evidence, goal: Goal) -> Point | LossOutOfReachError:
    try:
        return _choose(template, evidence, goal)
    except LossOutOfReachError as error:
        return error


def _choose(template: AnyPolicy, evidence: Evidence, goal: Goal) -> Point:
    """Return thresholds for a goal on the samples that choose; a risk is taken as it is, without its certificate."""
    scores, answers = simulate(template, evidence.readouts)
    costs = np.asarray(evidence.costs)
    if isinstance(goal, MaxRisk):
        return within_loss(scores, evidence.disagreement(answers), costs, goal.risk)
    losses = evidence.losses(answers)
    if isinstance(goal, Budget):
        return within_budget(scores, losses, costs, goal.cost)
    return within_loss(scores, losses, costs, float(losses[:, -1].mean()) + goal.drop)


def _rank(point: Point, goal: Goal) -> tuple[float, float]:
    """Return what is least for the best point under a goal."""
    better = (point.mean_loss, point.mean_cost)
    return better if isinstance(goal, Budget) else better[::-1]


def _out_of_reach(error: LossOutOfReachError, evidence: Evidence, goal: Goal) -> FittingError:
    """Return the error in the words of the goal."""
    if not isinstance(goal, MaxDrop):
        return error
    final_loss = float(evidence.losses(evidence.own_answers)[:, -1].mean())
    least = rounded_up(error.least - final_loss)
    return FittingError(f"a drop of {goal.drop:g} cannot be reached: the least is {least}")

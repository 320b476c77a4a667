"""Fits a policy of one kind to a dataset, for a goal."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.certify import certified_thresholds, require_samples
from edgeexit.fitting.frontier import Point
from edgeexit.fitting.goals import Budget, Expectation, Fit, Goal, KindRule, MaxDrop, MaxRisk, require_goal
from edgeexit.fitting.kinds import make_candidates, require_fitting_kind
from edgeexit.fitting.options import DEFAULT_OPTIONS, FitOptions
from edgeexit.fitting.outcome import outcome_of
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.replay import replay
from edgeexit.fitting.soundness import require_sound
from edgeexit.fitting.splits import choosing_and_certifying
from edgeexit.fitting.temperature import base_variant
from edgeexit.fitting.thresholds import LossOutOfReachError, rounded_up, within_budget, within_loss
from edgeexit.policies import Policy, exits_of

BASELINE: Final = "confidence"
"""The kind that sets the common mean cost of a comparison: the mean cost at which this kind reaches the goal."""


def fit_policy(kind: str, dataset: ReadoutDataset, goal: Goal, options: FitOptions = DEFAULT_OPTIONS) -> Fit:
    """Return the best policy of a kind that was found for a goal.

    Args:
        kind: a name in `FITTING_KINDS`.
        dataset: with logits if temperatures are fitted or the kind reads the probabilities of all classes.
        goal: budget, drop or risk. Under a risk, a third of the samples chooses the policy, and the rest certify it.
        options: temperatures, weights and seed.

    Raises FittingError for an unknown kind, a malformed dataset, a goal that cannot be reached, or too few samples.

    """
    _require_fit(dataset, goal)
    return fit_checked(kind, dataset, goal, options)


def fit_checked(kind: str, dataset: ReadoutDataset, goal: Goal, options: FitOptions) -> Fit:
    """Do the same as `fit_policy` without its checks, because a fold of a checked dataset may lack a class."""
    choosing = dataset
    if isinstance(goal, MaxRisk):
        choosing = dataset.take(choosing_and_certifying(len(dataset), options.seed)[0])
    try:
        choosing = base_variant(choosing, fit=options.temperatures)
        candidates = make_candidates(kind, choosing, options.for_budget(cost_of_goal(choosing, goal, options)))
        best = candidates[0] if len(candidates) == 1 else _best_candidate(candidates, choosing, goal)
        return _with_thresholds(best, dataset.at(best.temperatures), goal, options.seed)
    except MemoryError as error:
        raise FittingError(
            f"a fit of policy '{kind}' to {len(dataset):,} samples needs more memory than is free ({error}); give "
            "fewer samples, or name another kind of policy"
        ) from error


def fit_thresholds(candidate: Policy, dataset: ReadoutDataset, goal: Goal, *, seed: int = 0) -> Fit:
    """Return `candidate` with thresholds for a goal. Raises FittingError as `fit_policy` and `ReadoutDataset.at`."""
    _require_fit(dataset, goal)
    return _with_thresholds(candidate, dataset.at(candidate.temperatures), goal, seed)


def fit_by_rule(dataset: ReadoutDataset, rule: KindRule, options: FitOptions = DEFAULT_OPTIONS) -> Fit:
    """Return a policy whose thresholds are chosen by a rule of its kind, under base temperatures.

    Raises FittingError for an unknown kind or rule, a malformed dataset, and options that the kind cannot use.
    """
    require_sound(dataset)
    rules = require_fitting_kind(rule.kind).rules
    if rule.rule not in rules:
        raise FittingError(
            f"rule '{rule.rule}' of policy '{rule.kind}' is unknown; known rules: {', '.join(rules) or 'none'}"
        )
    policy = rules[rule.rule].fit(base_variant(dataset, fit=options.temperatures), options)
    return Fit(policy=policy, goal=rule, expected=expect(policy, dataset))


def _with_thresholds(candidate: Policy, dataset: ReadoutDataset, goal: Goal, seed: int) -> Fit:
    if isinstance(goal, MaxRisk):
        choosing, certifying = (dataset.take(part) for part in choosing_and_certifying(len(dataset), seed))
        thresholds, certificate = certified_thresholds(candidate, choosing, certifying, goal)
        policy = msgspec.structs.replace(candidate, thresholds=thresholds)
        return Fit(policy=policy, goal=goal, expected=expect(policy, certifying), certificate=certificate)
    try:
        thresholds = _choose(candidate, dataset, goal).thresholds
    except LossOutOfReachError as error:
        raise _out_of_reach(error, dataset, goal) from error
    policy = msgspec.structs.replace(candidate, thresholds=thresholds)
    return Fit(policy=policy, goal=goal, expected=expect(policy, dataset))


def expect(policy: Policy, dataset: ReadoutDataset) -> Expectation:
    """Return cost and loss of a policy on a dataset. Raises FittingError as `ReadoutDataset.at`."""
    dataset = dataset.at(policy.temperatures)
    scores, predictions = replay(policy, dataset)
    exits, losses = exits_of(scores, policy.thresholds), dataset.losses(predictions)
    outcome = outcome_of(exits, losses, dataset)
    return Expectation(
        samples=len(dataset),
        mean_cost=outcome.mean_cost,
        mean_loss=outcome.mean_loss,
        final_loss=float(losses[:, -1].mean()),
        disagreement=outcome_of(exits, dataset.disagreement(predictions), dataset).mean_loss,
        exit_rates=outcome.rates,
    )


def cost_of_goal(dataset: ReadoutDataset, goal: Goal, options: FitOptions = DEFAULT_OPTIONS) -> float:
    """Return the mean cost at which kinds are compared for a goal, in the unit of the costs.

    It is the budget, or the mean cost at which `BASELINE` reaches the goal; the full cost if it cannot.
    """
    if isinstance(goal, Budget):
        return goal.cost
    plain = base_variant(dataset, fit=options.temperatures)
    baseline = make_candidates(BASELINE, plain, FitOptions(temperatures=False).for_budget(dataset.costs[-1]))[0]
    try:
        return _choose(baseline, plain, goal).mean_cost
    except LossOutOfReachError:
        return dataset.costs[-1]


def _require_fit(dataset: ReadoutDataset, goal: Goal) -> None:
    require_sound(dataset)
    require_goal(goal)
    if isinstance(goal, MaxRisk):
        require_samples(len(dataset), goal, fractions=dataset.maps is not None)


def _best_candidate(candidates: Sequence[Policy], choosing: ReadoutDataset, goal: Goal) -> Policy:
    """Return the candidate whose thresholds do best on the choosing samples, the first one among equals."""
    found = [_choose_or_fail(candidate, choosing.at(candidate.temperatures), goal) for candidate in candidates]
    ranked = [(_rank(point, goal), k) for k, point in enumerate(found) if isinstance(point, Point)]
    if not ranked:
        failures = [error for error in found if isinstance(error, LossOutOfReachError)]
        raise _out_of_reach(min(failures, key=lambda error: error.lowest), choosing, goal)
    return candidates[min(ranked)[1]]


def _choose_or_fail(candidate: Policy, dataset: ReadoutDataset, goal: Goal) -> Point | LossOutOfReachError:
    try:
        return _choose(candidate, dataset, goal)
    except LossOutOfReachError as error:
        return error


def _choose(candidate: Policy, dataset: ReadoutDataset, goal: Goal) -> Point:
    """Return thresholds for a goal on the choosing samples; a risk is treated as a bound, without a certificate."""
    scores, predictions = replay(candidate, dataset)
    costs = np.asarray(dataset.costs)
    if isinstance(goal, MaxRisk):
        return within_loss(scores, dataset.disagreement(predictions), costs, goal.risk)
    losses = dataset.losses(predictions)
    if isinstance(goal, Budget):
        return within_budget(scores, losses, costs, goal.cost)
    return within_loss(scores, losses, costs, float(losses[:, -1].mean()) + goal.drop)


def _rank(point: Point, goal: Goal) -> tuple[float, float]:
    """Return a sort key that is lowest for the best point under a goal."""
    loss_first = (point.mean_loss, point.mean_cost)
    return loss_first if isinstance(goal, Budget) else loss_first[::-1]


def _out_of_reach(error: LossOutOfReachError, dataset: ReadoutDataset, goal: Goal) -> FittingError:
    """Return the error in terms of the goal: as a drop for `MaxDrop`, and unchanged for other goals."""
    if not isinstance(goal, MaxDrop):
        return error
    final_loss = float(dataset.losses(dataset.exit_predictions)[:, -1].mean())
    lowest = rounded_up(error.lowest - final_loss)
    return FittingError(f"a drop of {goal.drop:g} cannot be reached: the lowest possible is {lowest}")

"""From evidence and a goal to a fitted policy."""

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.certify import certified_thresholds, halves, require_samples
from edgeexit.fitting.frontier import Point
from edgeexit.fitting.goals import Budget, Expectation, Fit, Goal, MaxDrop, MaxRisk, require_goal
from edgeexit.fitting.kinds import CandidateOptions, make_candidates
from edgeexit.fitting.outcome import outcome_of
from edgeexit.fitting.readout_dataset import ReadoutDataset, require_sound
from edgeexit.fitting.thresholds import LossOutOfReachError, rounded_up, within_budget, within_loss
from edgeexit.policies import Policy, exits_of, simulate


def fit_policy(
    kind: str,
    dataset: ReadoutDataset,
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
    _require_fit(dataset, goal)
    return fit_checked(kind, dataset, goal, temperatures=temperatures, weights=weights, seed=seed)


def fit_checked(
    kind: str, dataset: ReadoutDataset, goal: Goal, *, temperatures: bool, weights: str | tuple[float, ...], seed: int
) -> Fit:
    """Do as `fit_policy`, of evidence and a goal that are known to be sound: folds of it may lack a rare class."""
    choosing = dataset
    if isinstance(goal, MaxRisk):
        choosing = dataset.take(halves(len(dataset), seed)[0])
    options = CandidateOptions(budget=meant_cost(choosing, goal), temperatures=temperatures, weights=weights, seed=seed)
    candidates = make_candidates(kind, choosing, options)
    best = candidates[0] if len(candidates) == 1 else _best_candidate(candidates, choosing, goal)
    return _with_thresholds(best, dataset.at(best.temperatures), goal, seed)


def fit_thresholds(candidate: Policy, dataset: ReadoutDataset, goal: Goal, *, seed: int = 0) -> Fit:
    """Return `candidate` with thresholds for a goal; evidence is under its temperatures. Raises as `fit_policy`."""
    _require_fit(dataset, goal)
    return _with_thresholds(candidate, dataset, goal, seed)


def _with_thresholds(candidate: Policy, dataset: ReadoutDataset, goal: Goal, seed: int) -> Fit:
    if isinstance(goal, MaxRisk):
        choosing, certifying = (dataset.take(half) for half in halves(len(dataset), seed))
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
    """Return what a policy does on evidence under its temperatures."""
    scores, predictions = simulate(policy, dataset.readouts)
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


def meant_cost(dataset: ReadoutDataset, goal: Goal) -> float:
    """Return the mean cost that a goal comes to: a budget's own, else what confidence needs for it.

    Where confidence cannot keep the goal at any cost, it is the full one.
    """
    if isinstance(goal, Budget):
        return goal.cost
    options = CandidateOptions(budget=dataset.costs[-1], temperatures=False)
    plain = make_candidates("confidence", dataset, options)[0]
    try:
        return _choose(plain, dataset, goal).mean_cost
    except LossOutOfReachError:
        return dataset.costs[-1]


def _require_fit(dataset: ReadoutDataset, goal: Goal) -> None:
    require_sound(dataset)
    require_goal(goal)
    if isinstance(goal, MaxRisk):
        require_samples(len(dataset), goal, fractions=dataset.maps is not None)


def _best_candidate(candidates: Sequence[Policy], choosing: ReadoutDataset, goal: Goal) -> Policy:
    """Return the candidate whose thresholds do best on the samples that choose, the first where several do."""
    found = [_choose_or_fail(candidate, choosing.at(candidate.temperatures), goal) for candidate in candidates]
    ranked = [(_rank(point, goal), k) for k, point in enumerate(found) if isinstance(point, Point)]
    if not ranked:
        failures = [error for error in found if isinstance(error, LossOutOfReachError)]
        raise _out_of_reach(min(failures, key=lambda error: error.least), choosing, goal)
    return candidates[min(ranked)[1]]


def _choose_or_fail(candidate: Policy, dataset: ReadoutDataset, goal: Goal) -> Point | LossOutOfReachError:
    try:
        return _choose(candidate, dataset, goal)
    except LossOutOfReachError as error:
        return error


def _choose(candidate: Policy, dataset: ReadoutDataset, goal: Goal) -> Point:
    """Return thresholds for a goal on the samples that choose; a risk is taken as it is, without its certificate."""
    scores, predictions = simulate(candidate, dataset.readouts)
    costs = np.asarray(dataset.costs)
    if isinstance(goal, MaxRisk):
        return within_loss(scores, dataset.disagreement(predictions), costs, goal.risk)
    losses = dataset.losses(predictions)
    if isinstance(goal, Budget):
        return within_budget(scores, losses, costs, goal.cost)
    return within_loss(scores, losses, costs, float(losses[:, -1].mean()) + goal.drop)


def _rank(point: Point, goal: Goal) -> tuple[float, float]:
    """Return what is least for the best point under a goal."""
    better = (point.mean_loss, point.mean_cost)
    return better if isinstance(goal, Budget) else better[::-1]


def _out_of_reach(error: LossOutOfReachError, dataset: ReadoutDataset, goal: Goal) -> FittingError:
    """Return the error in the words of the goal."""
    if not isinstance(goal, MaxDrop):
        return error
    final_loss = float(dataset.losses(dataset.exit_predictions)[:, -1].mean())
    least = rounded_up(error.least - final_loss)
    return FittingError(f"a drop of {goal.drop:g} cannot be reached: the least is {least}")

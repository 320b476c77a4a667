"""How `beem` is fitted: its weights, and its two rules that choose thresholds exit by exit."""

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.frontier import Thresholds
from edgeexit.fitting.kinds.kind import FittingKind, PublishedMethod, ThresholdRule
from edgeexit.fitting.kinds.unfitted import unfitted, unfitted_variants
from edgeexit.fitting.options import CandidateOptions, FitOptions
from edgeexit.fitting.ranking import shortest_between
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.fitting.replay import replay
from edgeexit.policies import exits_of
from edgeexit.policies.beem import Beem
from edgeexit.policies.fields import require_positive
from edgeexit.policies.readout import Array

Weights = str | tuple[float, ...] | None
"""As in `FitOptions.weights`."""

_ACCURACY, _COST = "accuracy", "cost"
_MIN_WEIGHT = 1e-3
"""Weight of an exit that is never right: weights must be above 0."""
_HALVINGS = 30
_ROUNDING = 1e-9
"""Rounding error that is allowed in a sum of errors, in samples."""


def beem_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Beem, ...]:
    """Return BEEM with the chosen weights, under fitted temperatures and under base temperatures.

    Raises FittingError for weights of an unknown name, of the wrong number, or not above 0.
    """
    return unfitted_variants(Beem, dataset, options, weights=beem_weights(dataset, options.weights))


def beem_weights(dataset: ReadoutDataset, choice: Weights) -> tuple[float, ...]:
    """Return the weights [K] of BEEM: `accuracy` (the default), `cost`, or the numbers given.

    `accuracy` (BEEM-A): the accuracy of each exit; without labels, its agreement with the final exit. `cost` (BEEM-C):
    lambda (k + 1) with lambda = 1 / K, so that the final exit has weight 1. Raises FittingError as `beem_candidates`.

    Source: arXiv:2502.00745; lambda scales the scores only, and the thresholds with them.
    """
    exits = dataset.exits
    if choice is None or choice == _ACCURACY:
        accuracy = 1 - dataset.losses(dataset.exit_predictions).mean(axis=0)
        return tuple(round(max(float(value), _MIN_WEIGHT), 6) for value in accuracy)
    if choice == _COST:
        return tuple(round((k + 1) / exits, 6) for k in range(exits))
    if isinstance(choice, str):
        raise FittingError(
            f"weights '{choice}' are unknown; give {', '.join(KIND.weights)}, or {exits} numbers above 0"
        )
    if len(choice) != exits:
        raise FittingError(f"weights {list(choice)} must be {exits} finite numbers above 0, one per exit")
    try:
        require_positive("weights", choice)
    except ValueError as error:
        raise FittingError(str(error)) from error
    return tuple(float(weight) for weight in choice)


def error_rate_rule(dataset: ReadoutDataset, weights: Weights = None, *, error_rate: float | None = None) -> Beem:
    """Return BEEM with the paper's thresholds, exit by exit in order of depth, over the samples that remain.

    Each is the lowest threshold at which the samples that exit have an error rate of at most `error_rate`, by default
    the final exit's on all samples. This does not bound the error rate over all samples: the samples that exit early
    are easy, and the final exit errs on them less often than on average.

    Possible thresholds are the scores that occur, and None. The error rate is not monotone in the threshold, so all are
    checked. Without labels, errors are disagreements with the final exit, whose rate is then 0. Raises FittingError for
    an error rate outside [0, 1], and for weights as in `beem_weights`.

    Source: arXiv:2502.00745 (ICLR 2025).
    """
    if error_rate is not None and not 0 <= error_rate <= 1:
        raise FittingError(f"error rate {error_rate:g} must be between 0 and 1")
    candidate, scores, losses = _simulated(dataset, weights)
    rate = float(losses[:, -1].mean()) if error_rate is None else error_rate
    return msgspec.structs.replace(candidate, thresholds=_thresholds_by_depth(scores, losses - rate, cumulative=False))


def paired_rule(dataset: ReadoutDataset, weights: Weights = None) -> Beem:
    """Return BEEM with thresholds by this project's paired rule, exit by exit, over the samples that remain.

    Each is the lowest threshold at which all samples that have exited so far have, together, no more errors than the
    final exit has on the same samples. Hence the policy has no more errors than the final exit. Everything else is as
    in `error_rate_rule`.
    """
    candidate, scores, losses = _simulated(dataset, weights)
    thresholds = _thresholds_by_depth(scores, losses - losses[:, -1:], cumulative=True)
    return msgspec.structs.replace(candidate, thresholds=thresholds)


def beem_policy(dataset: ReadoutDataset, budget: float, weights: Weights = None) -> Beem:
    """Return BEEM by `error_rate_rule`, with the lowest error rate found whose mean cost is at most `budget`.

    The paper states no budget; its error rate is the one parameter that trades accuracy for cost. Raises FittingError
    for a budget below the cost of the first exit, and for weights as in `beem_weights`.
    """
    if budget < dataset.costs[0]:
        raise FittingError(
            f"a mean cost of {budget:g} cannot be reached: the first exit alone costs {dataset.costs[0]:g}"
        )
    candidate, scores, losses = _simulated(dataset, weights)
    costs = np.asarray(dataset.costs)

    def thresholds_at(rate: float) -> tuple[Thresholds, float]:
        thresholds = _thresholds_by_depth(scores, losses - rate, cumulative=False)
        return thresholds, float(costs[exits_of(scores, thresholds)].mean())

    low, high = 0.0, 1.0
    best, cost = thresholds_at(low)
    if cost > budget:
        best, _ = thresholds_at(high)  # every sample exits at the first exit
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            thresholds, cost = thresholds_at(middle)
            if cost <= budget:
                best, high = thresholds, middle
            else:
                low = middle
    return msgspec.structs.replace(candidate, thresholds=best)


def lowest_threshold(scores: Array, excess: Values, carried: float = 0.0) -> float | None:
    """Return a threshold below the lowest of `scores` [n] at which the samples that reach it may all exit.

    They may if `carried` plus their `excess` [n] is at most 0. `excess` is the error of each sample minus the allowed
    error; `carried` is the sum of earlier exits. The threshold is above the next lower score. Returns None if no score
    satisfies this.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    sums = carried + np.cumsum(excess[order])
    ends = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]  # equal scores exit together
    good = np.flatnonzero(ends & (sums <= _ROUNDING))
    if not len(good):
        return None
    lowest = good[-1]
    return shortest_between(float(ordered[lowest + 1]) if lowest + 1 < len(ordered) else 0.0, float(ordered[lowest]))


def _thresholds_by_depth(scores: Array, excess: Values, *, cumulative: bool) -> Thresholds:
    """Return the lowest threshold of each early exit over the samples that remain.

    If `cumulative`, the excess of the samples that exited earlier is added.
    """
    remaining = np.ones(len(scores), dtype=np.bool_)
    carried = 0.0
    thresholds: list[float | None] = []
    for k in range(scores.shape[1] - 1):
        threshold = lowest_threshold(scores[remaining, k], excess[remaining, k], carried)
        thresholds.append(threshold)
        if threshold is None:
            continue
        exit_mask = remaining & (scores[:, k] >= np.float32(threshold))
        if cumulative:
            carried += float(excess[exit_mask, k].sum())
        remaining &= ~exit_mask
    return tuple(thresholds)


def _simulated(dataset: ReadoutDataset, weights: Weights) -> tuple[Beem, Array, Values]:
    """Return BEEM without thresholds, and its scores and losses [N, K]."""
    candidate = unfitted(Beem, dataset, weights=beem_weights(dataset, weights))
    scores, predictions = replay(candidate, dataset)
    return candidate, scores, dataset.losses(predictions)


def _require_weights(dataset: ReadoutDataset, options: FitOptions) -> None:
    beem_weights(dataset, options.weights)


KIND = FittingKind(
    policy=Beem,
    summary="sum S_k of the weighted confidences of consecutive exits that agree; it restarts when the class changes",
    learns=("temperatures", "weights"),
    source="BEEM (ICLR 2025)",
    make_candidates=beem_candidates,
    weights=(_ACCURACY, _COST),
    require_options=_require_weights,
    rules={
        "paired": ThresholdRule(
            summary="no more errors than the final exit on the same samples",
            fit=lambda dataset, options: paired_rule(dataset, options.weights),
        ),
        "error-rate": ThresholdRule(
            summary="at each exit, an error rate of at most the final exit's (the rule of the paper)",
            fit=lambda dataset, options: error_rate_rule(dataset, options.weights),
        ),
    },
    published=PublishedMethod(name="BEEM, the paper's rule", parameter="budget", fit=beem_policy),
)

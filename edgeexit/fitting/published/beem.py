"""BEEM's thresholds from error rates, and from errors paired with the final exit's."""

from typing import Literal

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.frontier import Thresholds
from edgeexit.fitting.kinds import CandidateOptions
from edgeexit.fitting.kinds.beem import beem_candidates
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.policies import exits_of, simulate
from edgeexit.policies.beem import Beem
from edgeexit.policies.readout import Array

_HALVINGS = 30
_ROUNDING = 1e-9
"""What sums of errors may be above a bound by rounding alone, in samples."""


def beem_rule(
    dataset: ReadoutDataset,
    weights: str | tuple[float, ...] = "accuracy",
    *,
    rule: Literal["paired", "error-rate"] = "paired",
    error_rate: float | None = None,
) -> Beem:
    """Return BEEM with the thresholds of a rule, exit by exit in order of depth, over the samples that are left.

    `error-rate`, the paper's: the least threshold such that those that reach it err at a rate of at most q =
    `error_rate`, by default the final exit's. It does not protect the whole: those that leave are the easy ones, on
    which the final exit errs less than on average. `paired`: the least threshold such that all that have left so far
    err, together, no more than the final exit does on the same samples; so neither does the whole.

    Candidates are the scores that occur, and None (nothing leaves). The error is not monotone in the threshold: all
    are looked at. Without labels, errors are disagreement with the final exit, whose rate is then 0.

    Raises FittingError for an unknown rule, an error rate outside [0, 1] or with the rule that takes none, and weights
    as in `fit_policy`.

    Source: arXiv:2502.00745 (ICLR 2025); the paired rule is this project's.
    """
    if rule not in {"paired", "error-rate"}:
        raise FittingError(f"rule '{rule}' is unknown; say paired or error-rate")
    if error_rate is not None and (rule == "paired" or not 0 <= error_rate <= 1):
        raise FittingError(f"error rate {error_rate:g} goes with the error-rate rule only, and must be from 0 to 1")
    candidate = _candidate(dataset, weights)
    scores, predictions = simulate(candidate, dataset.readouts)
    losses = dataset.losses(predictions)
    if rule == "paired":
        thresholds = _in_order_of_depth(scores, losses - losses[:, -1:], carries=True)
    else:
        rate = float(losses[:, -1].mean()) if error_rate is None else error_rate
        thresholds = _in_order_of_depth(scores, losses - rate, carries=False)
    return msgspec.structs.replace(candidate, thresholds=thresholds)


def beem_policy(dataset: ReadoutDataset, budget: float, weights: str | tuple[float, ...] = "accuracy") -> Beem:
    """Return BEEM by the error-rate rule, with the lowest error rate found whose mean cost is at most `budget`.

    The paper sets no budget; its error rate is the one knob that trades accuracy for cost. Raises FittingError for a
    budget below the cost of the first exit, and weights as in `fit_policy`.
    """
    if budget < dataset.costs[0]:
        raise FittingError(
            f"a mean cost of {budget:g} cannot be reached: the first exit alone costs {dataset.costs[0]:g}"
        )
    candidate = _candidate(dataset, weights)
    scores, predictions = simulate(candidate, dataset.readouts)
    losses, costs = dataset.losses(predictions), np.asarray(dataset.costs)

    def thresholds_at(rate: float) -> tuple[Thresholds, float]:
        thresholds = _in_order_of_depth(scores, losses - rate, carries=False)
        return thresholds, float(costs[exits_of(scores, thresholds)].mean())

    low, high = 0.0, 1.0
    best, cost = thresholds_at(low)
    if cost > budget:
        best, _ = thresholds_at(high)  # everything leaves at the first exit
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            thresholds, cost = thresholds_at(middle)
            if cost <= budget:
                best, high = thresholds, middle
            else:
                low = middle
    return msgspec.structs.replace(candidate, thresholds=best)


def least_threshold(scores: Array, excess: Values, carried: float = 0.0) -> float | None:
    """Return the least of `scores` [n] such that `carried` and the `excess` [n] of all that reach it sum to 0 or less.

    `excess` is error above what is allowed, sample by sample. None where no score will do.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    sums = carried + np.cumsum(excess[order])
    ends = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]  # ties leave together
    good = np.flatnonzero(ends & (sums <= _ROUNDING))
    return float(ordered[good[-1]]) if len(good) else None


def _in_order_of_depth(scores: Array, excess: Values, *, carries: bool) -> Thresholds:
    """Return each early exit's least threshold over the samples left; with `carries`, sums go on from exit to exit."""
    left = np.ones(len(scores), dtype=np.bool_)
    carried = 0.0
    thresholds: list[float | None] = []
    for k in range(scores.shape[1] - 1):
        threshold = least_threshold(scores[left, k], excess[left, k], carried)
        thresholds.append(threshold)
        if threshold is None:
            continue
        exit_mask = left & (scores[:, k] >= np.float32(threshold))
        if carries:
            carried += float(excess[exit_mask, k].sum())
        left &= ~exit_mask
    return tuple(thresholds)


def _candidate(dataset: ReadoutDataset, weights: str | tuple[float, ...]) -> Beem:
    options = CandidateOptions(budget=dataset.costs[-1], temperatures=False, weights=weights)
    return beem_candidates(dataset, options)[0]

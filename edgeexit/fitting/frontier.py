"""From safe to bold: a path of thresholds along which cost falls and risk grows, each step the best bargain."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.policies import exits_of
from edgeexit.policies.readout import Array

Thresholds = tuple[float | None, ...]
_Values = npt.NDArray[np.float64]

_CANDIDATES = 64
"""Quantiles of an exit's scores that may become its threshold."""
_STRIDES = (1, 2, 4, 8, 16)
"""How far one step may loosen a threshold: a longer one passes over candidates that cost and bring nothing."""
_STEP_LOSS = 0.002
"""A step longer than one candidate may add this much loss, so that the path is fine where it gets dangerous."""
_PRIOR_SAMPLES = 2.0
"""Weight of an exit's loss on all samples in the estimate for the few that a step moves there."""


class Point(NamedTuple):
    """Thresholds, and what they do on the samples that chose them."""

    thresholds: Thresholds
    mean_cost: float
    mean_loss: float


def frontier(scores: Array, losses: _Values, costs: _Values) -> list[Point]:
    """Return nested thresholds from full depth on, each looser than the one before at one exit.

    Greedy: every step loosens the exit that saves the most cost for each unit of loss that it is expected to add.
    No loss among the few samples that a step moves does not mean that there is none in the long run, so the estimate
    is shrunk towards the exit's loss on all samples. `scores` [N, K] of a policy, `losses` [N, K] of answering at
    each exit, `costs` [K] cumulative.
    """
    samples, exits = scores.shape
    ladders = [_candidates(scores[:, k]) for k in range(exits - 1)]
    rungs = [-1] * (exits - 1)  # -1: nothing leaves there yet
    overall = losses.mean(axis=0)
    taken = np.full(samples, exits - 1)
    path = [_point((None,) * (exits - 1), taken, losses, costs)]
    while True:
        best: tuple[float, int, int, npt.NDArray[np.int64]] | None = None
        for k, ladder in enumerate(ladders):
            for stride in _STRIDES:
                rung = rungs[k] + stride
                if rung >= len(ladder):
                    break
                would_take = exits_of(scores, _replaced(path[-1].thresholds, k, ladder[rung]))
                moved = np.flatnonzero(would_take != taken)
                if not len(moved):
                    continue
                added = max(float((losses[moved, k] - losses[moved, taken[moved]]).sum()), 0.0)
                if stride > 1 and added / samples > _STEP_LOSS:
                    break
                rate = (added + _PRIOR_SAMPLES * overall[k]) / (len(moved) + _PRIOR_SAMPLES)
                saved = float((costs[taken[moved]] - costs[k]).sum())
                bargain = saved / max(rate * len(moved), 1e-9)
                if best is None or bargain > best[0]:
                    best = (bargain, k, rung, would_take)
        if best is None:
            return path
        _, k, rungs[k], taken = best
        path.append(_point(_replaced(path[-1].thresholds, k, ladders[k][rungs[k]]), taken, losses, costs))


def _candidates(scores: Array) -> list[float]:
    """Return distinct thresholds from strict to loose: quantiles that are observed scores, so ties leave."""
    quantiles = np.quantile(scores, np.linspace(1, 0, _CANDIDATES), method="higher")
    return [float(value) for value in np.unique(quantiles)[::-1]]


def _replaced(thresholds: Thresholds, k: int, threshold: float) -> Thresholds:
    return (*thresholds[:k], threshold, *thresholds[k + 1 :])


def _point(thresholds: Thresholds, taken: npt.NDArray[np.int64], losses: _Values, costs: _Values) -> Point:
    mean_loss = losses[np.arange(len(taken)), taken].mean()
    return Point(thresholds, float(costs[taken].mean()), float(mean_loss))

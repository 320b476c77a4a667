"""From safe to bold: a path of thresholds along which cost falls and risk grows, each step the best bargain."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.policies import exits_of
from edgeexit.policies.readout import Array

Thresholds = tuple[float | None, ...]

_CANDIDATES = 64
"""Quantiles of an exit's scores that may become its threshold."""
_STRIDES = (1, 2, 4, 8, 16)
"""How far one step may loosen a threshold: a longer one passes over candidates that cost and bring nothing."""
_STEP_LOSS = 0.002
"""A step longer than one candidate may add this much loss, so that the path is fine where it gets dangerous."""


class Point(NamedTuple):
    """Thresholds, and what they do on the samples that chose them."""

    thresholds: Thresholds
    mean_cost: float
    mean_loss: float


def frontier(scores: Array, losses: npt.NDArray[np.float64], costs: npt.NDArray[np.float64]) -> list[Point]:
    """Return nested thresholds from full depth on, each looser than the one before at one exit.

    Greedy: every step loosens the exit that saves the most cost for each unit of added loss. `scores` [N, K] of a
    policy, `losses` [N, K] of answering at each exit, `costs` [K] cumulative.
    """
    exits = scores.shape[1]
    ladders = [_candidates(scores[:, k]) for k in range(exits - 1)]
    rungs = [-1] * (exits - 1)  # -1: nothing leaves there yet
    path = [_evaluate((None,) * (exits - 1), scores, losses, costs)]
    while True:
        best: tuple[float, int, int, Point] | None = None
        for k, ladder in enumerate(ladders):
            for stride in _STRIDES:
                rung = rungs[k] + stride
                if rung >= len(ladder):
                    break
                thresholds = (*path[-1].thresholds[:k], ladder[rung], *path[-1].thresholds[k + 1 :])
                point = _evaluate(thresholds, scores, losses, costs)
                saved = path[-1].mean_cost - point.mean_cost
                lost = max(point.mean_loss - path[-1].mean_loss, 0)
                if stride > 1 and lost > _STEP_LOSS:
                    break
                if saved <= 0:
                    continue
                # Half a sample of loss keeps two harmless steps comparable: the one that saves more wins.
                bargain = saved / (lost + 0.5 / len(scores))
                if best is None or bargain > best[0]:
                    best = (bargain, k, rung, point)
        if best is None:
            return path
        _, k, rung, point = best
        rungs[k] = rung
        path.append(point)


def _candidates(scores: Array) -> list[float]:
    """Return distinct thresholds from strict to loose: quantiles that are observed scores, so ties leave."""
    quantiles = np.quantile(scores, np.linspace(1, 0, _CANDIDATES), method="higher")
    return [float(value) for value in np.unique(quantiles)[::-1]]


def _evaluate(
    thresholds: Thresholds, scores: Array, losses: npt.NDArray[np.float64], costs: npt.NDArray[np.float64]
) -> Point:
    exits = exits_of(scores, thresholds)
    mean_loss = losses[np.arange(len(exits)), exits].mean()
    return Point(thresholds, float(costs[exits].mean()), float(mean_loss))

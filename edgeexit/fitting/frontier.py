"""From safe to bold: a path of thresholds along which cost falls and risk grows, each step the best bargain."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.cuts import Ranking
from edgeexit.policies.readout import Array

Thresholds = tuple[float | None, ...]
_Values = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]

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


class _Step(NamedTuple):
    bargain: float
    rung: int
    moved: _Indices


def frontier(scores: Array, losses: _Values, costs: _Values) -> list[Point]:
    """Return nested thresholds from full depth on, each looser than the one before at one exit.

    Greedy: every step loosens the exit that saves the most cost for each unit of loss that it is expected to add.
    No loss among the few samples that a step moves does not mean that there is none in the long run, so the estimate
    is shrunk towards the exit's loss on all samples. `scores` [N, K] of a policy, `losses` [N, K] of answering at
    each exit, `costs` [K] cumulative.
    """
    samples, exits = scores.shape
    ranking = Ranking(scores)
    ladders = [_ladder(ranking, k) for k in range(exits - 1)]
    rungs = [0] * (exits - 1)  # 0: nothing leaves there yet
    overall = losses.mean(axis=0)
    taken = np.full(samples, exits - 1)
    cuts = [0] * (exits - 1)
    path = [_point((None,) * (exits - 1), taken, losses, costs)]
    while True:
        best: tuple[int, _Step] | None = None
        for k, ladder in enumerate(ladders):
            step = _best_step(
                k, ranking.order[k], ladder, rungs[k], taken=taken, losses=losses, costs=costs, prior=float(overall[k])
            )
            if step is not None and (best is None or step.bargain > best[1].bargain):
                best = k, step
        if best is None:
            return path
        k, step = best
        rungs[k] = step.rung
        cuts[k] = ladders[k][step.rung]
        taken[step.moved] = k
        path.append(_point(ranking.thresholds(cuts), taken, losses, costs))


def _ladder(ranking: Ranking, k: int) -> list[int]:
    """Return cuts of an exit from none to the loosest: quantiles of its scores, so that steps take like shares."""
    wanted = np.linspace(0, ranking.samples, _CANDIDATES + 1)
    return sorted({ranking.place_near(k, cut) for cut in wanted})


def _best_step(
    k: int,
    order: _Indices,
    ladder: list[int],
    rung: int,
    *,
    taken: _Indices,
    losses: _Values,
    costs: _Values,
    prior: float,
) -> _Step | None:
    """Return the best bargain among the steps that loosen exit `k` from `rung`; None: there is none that moves any."""
    last = min(rung + _STRIDES[-1], len(ladder) - 1)
    passed = order[ladder[rung] : ladder[last]]
    waiting = taken[passed] > k
    moved = passed[waiting]
    counts = np.cumsum(waiting)
    added = np.cumsum(losses[moved, k] - losses[moved, taken[moved]])
    saved = np.cumsum(costs[taken[moved]] - costs[k])
    best: _Step | None = None
    for stride in _STRIDES:
        if rung + stride > last:
            break
        count = int(counts[ladder[rung + stride] - ladder[rung] - 1])
        if not count:
            continue
        loss = max(float(added[count - 1]), 0.0)
        if stride > 1 and loss / len(taken) > _STEP_LOSS:
            break
        rate = (loss + _PRIOR_SAMPLES * prior) / (count + _PRIOR_SAMPLES)
        bargain = float(saved[count - 1]) / max(rate * count, 1e-9)
        if best is None or bargain > best.bargain:
            best = _Step(bargain, rung + stride, moved[:count])
    return best


def _point(thresholds: Thresholds, taken: _Indices, losses: _Values, costs: _Values) -> Point:
    mean_loss = losses[np.arange(len(taken)), taken].mean()
    return Point(thresholds, float(costs[taken].mean()), float(mean_loss))

"""A path of thresholds from the safest to the cheapest: each step lowers the cost and raises the expected loss."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.cuts import Ranking
from edgeexit.policies.readout import Array

Thresholds = tuple[float | None, ...]
_Values = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]

_CANDIDATES = 64
"""Number of quantiles of an exit's scores that can become its threshold."""
_STRIDES = (1, 2, 4, 8, 16)
"""Numbers of quantiles by which one step can lower a threshold; long steps skip quantiles without a gain."""
_STEP_LOSS = 0.002
"""Maximum mean loss that a step of more than one quantile can add, so that the path is fine where losses begin."""
_PRIOR_SAMPLES = 2.0
"""Weight of the mean loss of an exit in the estimate for the few samples that a step moves there."""


class Point(NamedTuple):
    """Thresholds, and their mean cost and loss on the choosing samples."""

    thresholds: Thresholds
    mean_cost: float
    mean_loss: float


class _Step(NamedTuple):
    saving: float
    """Cost saved per unit of expected additional loss."""
    level: int
    moved: _Indices


def frontier(scores: Array, losses: _Values, costs: _Values) -> list[Point]:
    """Return nested thresholds that start at full depth, each lower than the one before at one exit.

    Greedy: each step lowers the threshold of the exit that saves the most cost per unit of loss that it is expected to
    add. The few samples that a step moves can be without loss by chance, so the estimate is shrunk towards the mean
    loss of the exit. `scores` [N, K] of a policy, `losses` [N, K] of its predictions at each exit, `costs` [K]
    cumulative.
    """
    samples, exits = scores.shape
    ranking = Ranking(scores)
    levels = [_cut_levels(ranking, k) for k in range(exits - 1)]
    reached = [0] * (exits - 1)  # 0: no sample exits there yet
    overall = losses.mean(axis=0)
    taken = np.full(samples, exits - 1)
    cuts = [0] * (exits - 1)
    path = [_point((None,) * (exits - 1), taken, losses, costs)]
    while True:
        best: tuple[int, _Step] | None = None
        for k, cut_levels in enumerate(levels):
            step = _best_step(
                k,
                ranking.order[k],
                cut_levels,
                reached[k],
                taken=taken,
                losses=losses,
                costs=costs,
                prior=float(overall[k]),
            )
            if step is not None and (best is None or step.saving > best[1].saving):
                best = k, step
        if best is None:
            return path
        k, step = best
        reached[k] = step.level
        cuts[k] = levels[k][step.level]
        taken[step.moved] = k
        path.append(_point(ranking.thresholds(cuts), taken, losses, costs))


def _cut_levels(ranking: Ranking, k: int) -> list[int]:
    """Return the cuts of an exit from 0 to the highest, at quantiles of its scores."""
    wanted = np.linspace(0, ranking.samples, _CANDIDATES + 1)
    return sorted({ranking.place_near(k, cut) for cut in wanted})


def _best_step(
    k: int,
    order: _Indices,
    cut_levels: list[int],
    level: int,
    *,
    taken: _Indices,
    losses: _Values,
    costs: _Values,
    prior: float,
) -> _Step | None:
    """Return the step of exit `k` from `cut_levels[level]` that saves the most, or None if none moves a sample."""
    last = min(level + _STRIDES[-1], len(cut_levels) - 1)
    passed = order[cut_levels[level] : cut_levels[last]]
    remaining = taken[passed] > k
    moved = passed[remaining]
    counts = np.cumsum(remaining)
    added = np.cumsum(losses[moved, k] - losses[moved, taken[moved]])
    saved = np.cumsum(costs[taken[moved]] - costs[k])
    best: _Step | None = None
    for stride in _STRIDES:
        if level + stride > last:
            break
        count = int(counts[cut_levels[level + stride] - cut_levels[level] - 1])
        if not count:
            continue
        loss = max(float(added[count - 1]), 0.0)
        if stride > 1 and loss / len(taken) > _STEP_LOSS:
            break
        rate = (loss + _PRIOR_SAMPLES * prior) / (count + _PRIOR_SAMPLES)
        saving = float(saved[count - 1]) / max(rate * count, 1e-9)
        if best is None or saving > best.saving:
            best = _Step(saving, level + stride, moved[:count])
    return best


def _point(thresholds: Thresholds, taken: _Indices, losses: _Values, costs: _Values) -> Point:
    mean_loss = losses[np.arange(len(taken)), taken].mean()
    return Point(thresholds, float(costs[taken].mean()), float(mean_loss))

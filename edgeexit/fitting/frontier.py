"""A path of thresholds from the safest to the cheapest: each step lowers the cost and raises the expected loss."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.ranking import Ranking
from edgeexit.policies.readout import Array

Thresholds = tuple[float | None, ...]
_Values = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]

_QUANTILES = 64
"""Number of quantiles of an exit's scores that can become its threshold."""
_STRIDES = (1, 2, 4, 8, 16)
"""Numbers of quantiles by which one step can lower a threshold; long steps skip quantiles without a gain."""
_STEP_LOSS = 0.002
"""Maximum mean loss that a step of more than one quantile can add: once early exits cause losses, steps are short."""
_PRIOR_SAMPLES = 2.0
"""Weight, in samples, of the mean loss of an exit in the estimate for the few samples that a step moves to it."""


class Point(NamedTuple):
    """Thresholds, and their mean cost and loss on the choosing samples."""

    thresholds: Thresholds
    mean_cost: float
    mean_loss: float


class _Step(NamedTuple):
    saving: float
    """Cost saved per unit of expected additional loss."""
    level: int
    """The new index into the quantile positions of the exit."""
    moved: _Indices
    """The samples that the step moves to the exit."""


def frontier(scores: Array, losses: _Values, costs: _Values) -> list[Point]:
    """Return a path of thresholds from full depth to the first exit; each step lowers the threshold of one exit.

    The path is greedy: each step takes the exit that saves the most cost per unit of loss that it is expected to add.
    The few samples that a step moves can have no loss by chance, so the expected loss is shrunk towards the mean loss
    of the exit. `scores` [N, K] of a policy, `losses` [N, K] of its predictions at each exit, `costs` [K] cumulative.
    """
    samples, exits = scores.shape
    ranking = Ranking(scores)
    quantiles = [_quantile_positions(ranking, k) for k in range(exits - 1)]
    reached = [0] * (exits - 1)  # 0: no sample exits at this exit yet
    overall = losses.mean(axis=0)
    taken = np.full(samples, exits - 1)
    positions = [0] * (exits - 1)
    path = [_point((None,) * (exits - 1), taken, losses, costs)]
    while True:
        best: tuple[int, _Step] | None = None
        for k, exit_positions in enumerate(quantiles):
            step = _best_step(
                k,
                ranking.order[k],
                exit_positions,
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
        positions[k] = quantiles[k][step.level]
        taken[step.moved] = k
        path.append(_point(ranking.thresholds(positions), taken, losses, costs))


def _quantile_positions(ranking: Ranking, k: int) -> list[int]:
    """Return the positions of exit `k` at quantiles of its scores, from 0 (no sample) to all samples."""
    wanted = np.linspace(0, ranking.samples, _QUANTILES + 1)
    return sorted({ranking.nearest_position(k, position) for position in wanted})


def _best_step(
    k: int,
    order: _Indices,
    positions: list[int],
    level: int,
    *,
    taken: _Indices,
    losses: _Values,
    costs: _Values,
    prior: float,
) -> _Step | None:
    """Return the step of exit `k` from `positions[level]` with the highest saving; None if no step moves a sample."""
    last = min(level + _STRIDES[-1], len(positions) - 1)
    passed = order[positions[level] : positions[last]]
    remaining = taken[passed] > k
    moved = passed[remaining]
    counts = np.cumsum(remaining)
    added = np.cumsum(losses[moved, k] - losses[moved, taken[moved]])
    saved = np.cumsum(costs[taken[moved]] - costs[k])
    best: _Step | None = None
    for stride in _STRIDES:
        if level + stride > last:
            break
        count = int(counts[positions[level + stride] - positions[level] - 1])
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

"""The greedy order in which samples move from the final exit to earlier exits: most saved cost per added loss first."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.ranking import Indices, Ranking

_Values = npt.NDArray[np.float64]

_QUANTILES = 64
"""Number of quantiles of an exit's scores at which a move can end."""
_STRIDES = (1, 2, 4, 8, 16)
"""Numbers of quantiles that one move can pass; long moves skip quantiles without a gain."""
_STEP_LOSS = 0.002
"""Maximum mean loss that a move over more than one quantile can add: once early exits cause losses, moves are short."""
_PRIOR_SAMPLES = 2.0
"""Weight, in samples, of the mean loss of an exit in the estimate for the few samples that a move concerns."""
_HIDDEN_LOSS = 0.1
"""Loss, in samples, that is added to the expected loss of each move. Without it, an exit that has no loss among few
samples would cost nothing, and all samples would move there first, however little that saves."""


class Move(NamedTuple):
    """Samples that move to an earlier exit, because the threshold of that exit is lowered."""

    exit_index: int
    start: int
    """Position of the exit before the move."""
    end: int
    """Position of the exit after the move."""
    samples: Indices
    """The samples that move, the highest score at this exit first."""
    left: Indices
    """The exit that each of these samples leaves."""


class _Step(NamedTuple):
    saving: float
    """Cost saved per unit of expected additional loss."""
    level: int
    """The new index into the quantile positions of the exit."""
    moved: Indices


def greedy_moves(ranking: Ranking, losses: _Values, costs: _Values) -> Iterator[Move]:
    """Yield moves from full depth until every sample exits as early as its scores permit.

    Each move takes the exit that saves the most cost per unit of loss that it is expected to add. The few samples of a
    move can have no loss by chance, so the expected loss is shrunk towards the mean loss of the exit, and is never
    zero. `losses` [N, K] of the predictions at each exit, `costs` [K] cumulative.
    """
    early = ranking.exits - 1
    quantiles = [_quantile_positions(ranking, k) for k in range(early)]
    reached = [0] * early  # 0: no sample exits at this exit yet
    overall = losses.mean(axis=0)
    taken = np.full(ranking.samples, early)
    while True:
        best: tuple[int, _Step] | None = None
        for k, positions in enumerate(quantiles):
            step = _best_step(
                k,
                ranking.order[k],
                positions,
                reached[k],
                taken=taken,
                losses=losses,
                costs=costs,
                prior=float(overall[k]),
            )
            if step is not None and (best is None or step.saving > best[1].saving):
                best = k, step
        if best is None:
            return
        k, step = best
        yield Move(k, quantiles[k][reached[k]], quantiles[k][step.level], step.moved, taken[step.moved])
        reached[k] = step.level
        taken[step.moved] = k


def _quantile_positions(ranking: Ranking, k: int) -> list[int]:
    """Return the positions of exit `k` at quantiles of its scores, from 0 (no sample) to all samples."""
    wanted = np.linspace(0, ranking.samples, _QUANTILES + 1)
    return sorted({ranking.nearest_position(k, position) for position in wanted})


def _best_step(
    k: int,
    order: Indices,
    positions: list[int],
    level: int,
    *,
    taken: Indices,
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
        saving = float(saved[count - 1]) / (rate * count + _HIDDEN_LOSS)
        if best is None or saving > best.saving:
            best = _Step(saving, level + stride, moved[:count])
    return best

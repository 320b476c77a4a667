"""A path of thresholds from the safest to the cheapest: the greedy order, in steps of few samples."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.greedy import Move, greedy_moves
from edgeexit.fitting.ranking import Indices, Ranking
from edgeexit.policies.readout import Array

Thresholds = tuple[float | None, ...]
_Values = npt.NDArray[np.float64]

_MAX_POINTS = 256


class Point(NamedTuple):
    """Thresholds, and their mean cost and loss on the choosing samples."""

    thresholds: Thresholds
    mean_cost: float
    mean_loss: float


class _Stops(NamedTuple):
    """The places where one move can stop [S], in order, and the totals over all samples of all moves up to each."""

    exit_index: int
    positions: Indices
    moved: Indices
    """Number of samples that have moved; a sample counts once per move."""
    saved: _Values
    """Cost saved, summed over the samples."""
    added: _Values
    """Loss added, summed over the samples."""


def frontier(scores: Array, losses: _Values, costs: _Values, *, max_points: int = _MAX_POINTS) -> list[Point]:
    """Return a path of at most `max_points` (at least 2) thresholds from full depth to the lowest cost.

    The path is nested: from point to point, no sample exits later, and at least one exits earlier. It follows the moves
    of `greedy_moves`, and each move is divided into steps of a single sample, or of equal scores. If these are more
    than `max_points`, some are left out so that the rest are evenly spaced in the sum of three quantities, each
    relative to its total: the saved cost, the logarithm of the number of moved samples, and the logarithm of the added
    loss. So steps near full depth are the shortest, and a step at a low risk adds little risk.

    `scores` [N, K] of a policy, `losses` [N, K] of its predictions at each exit, `costs` [K] cumulative.
    """
    samples, exits = scores.shape
    ranking = Ranking(scores)
    full_depth = float(losses[:, -1].mean())
    points = [Point((None,) * (exits - 1), float(costs[-1]), full_depth)]
    every = list(_stops(ranking, losses, costs))
    if not every:
        return points
    chosen = _spaced(
        np.concatenate([stops.moved for stops in every]),
        np.concatenate([stops.saved for stops in every]),
        np.concatenate([stops.added for stops in every]),
        max_points - 1,
    )
    positions = [0] * (exits - 1)
    first = 0
    for stops in every:
        for index in chosen[(chosen >= first) & (chosen < first + len(stops.positions))] - first:
            positions[stops.exit_index] = int(stops.positions[index])
            cost = float(costs[-1]) - float(stops.saved[index]) / samples
            points.append(Point(ranking.thresholds(positions), cost, full_depth + float(stops.added[index]) / samples))
        positions[stops.exit_index] = int(stops.positions[-1])
        first += len(stops.positions)
    return points


def _stops(ranking: Ranking, losses: _Values, costs: _Values) -> Iterator[_Stops]:
    """Yield the stops of each move: after every sample that moves, unless its score equals that of the next one."""
    moved, saved, added = 0, 0.0, 0.0
    for move in greedy_moves(ranking, losses, costs):
        positions, counts = _divided(ranking, move)
        sums_saved = saved + np.cumsum(costs[move.left] - costs[move.exit_index])
        sums_added = added + np.cumsum(losses[move.samples, move.exit_index] - losses[move.samples, move.left])
        yield _Stops(move.exit_index, positions, moved + counts, sums_saved[counts - 1], sums_added[counts - 1])
        moved, saved, added = moved + len(move.samples), float(sums_saved[-1]), float(sums_added[-1])


def _divided(ranking: Ranking, move: Move) -> tuple[Indices, Indices]:
    """Return the positions [S] at which a move can stop, and the number of its samples that have moved at each [S].

    Several positions can have the same number, because the samples between them exit earlier; the first one is taken.
    """
    possible = ranking.possible[move.exit_index]
    within = possible[(possible > move.start) & (possible <= move.end)]
    counts = np.searchsorted(ranking.ranks[move.exit_index, move.samples], within)
    counts, first = np.unique(counts, return_index=True)
    positions = within[first]
    positions[-1] = move.end
    some = counts > 0
    return positions[some], counts[some]


def _spaced(moved: Indices, saved: _Values, added: _Values, count: int) -> Indices:
    """Return the indices of at most `count` stops, with the last one, evenly spaced as `frontier` describes."""
    if len(moved) <= count:
        return np.arange(len(moved))
    loss = np.log1p(np.maximum(np.maximum.accumulate(added), 0.0))
    length = saved / saved[-1] + np.log1p(moved) / np.log1p(moved[-1]) + loss / max(float(loss[-1]), 1e-12)
    return np.unique(np.searchsorted(length, np.linspace(0, length[-1], count + 1)[1:]))

"""BranchyNet's screening: every combination of a short list of entropies, one an exit."""

from typing import cast

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds import CandidateOptions
from edgeexit.fitting.kinds.entropy import entropy_candidates
from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.policies import exits_of, simulate
from edgeexit.policies.entropy import Entropy
from edgeexit.policies.readout import Array

ENTROPIES = (1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0)
"""In nats: the list in the authors' experiment with ResNet on CIFAR-10."""
_MAX_EXITS = 6
"""Beyond, the combinations outgrow memory (17 ** 5 of them are fine)."""


def branchynet_policy(dataset: ReadoutDataset, budget: float) -> Entropy:
    """Return entropy with the combination of least loss whose mean cost is at most `budget`.

    The paper screens entropies on held-out samples and leaves the choice to the user's trade-off; its authors' code
    tries all combinations of a list. With more than six exits, one entropy serves all. Raises FittingError where no
    combination is within the budget, and for readouts without probabilities.

    Source: Teerapittayanon et al., ICPR 2016; `screen_branchy` in the authors' code.
    """
    options = CandidateOptions(budget=budget, temperatures=False)
    candidate = entropy_candidates(dataset, options)[0]
    limits = (1 - np.array(ENTROPIES) / np.log(dataset.probabilities.shape[2])).astype(np.float32)
    scores, predictions = simulate(candidate, dataset.readouts)
    costs = np.broadcast_to(np.asarray(dataset.costs), scores.shape)
    losses = dataset.losses(predictions)
    if dataset.exits <= _MAX_EXITS:
        stops = np.searchsorted(-limits, -scores[:, :-1])  # the place of the least entropy at which a sample leaves
        mean_costs, mean_losses = _all_combinations(stops, costs), _all_combinations(stops, losses)
    else:
        mean_costs, mean_losses = _one_for_all(scores, limits, costs), _one_for_all(scores, limits, losses)
    within = mean_costs <= budget + 1e-12 * abs(budget)
    if not within.any():
        raise FittingError(
            f"a mean cost of {budget:g} cannot be reached: the least that BranchyNet's entropies give is "
            f"{mean_costs.min():g}"
        )
    order = np.lexsort((mean_costs.ravel(), np.where(within, mean_losses, np.inf).ravel()))
    places = np.unravel_index(order[0], mean_costs.shape)
    chosen = [float(limits[int(place)]) for place in places]
    thresholds = tuple(chosen) if len(chosen) == dataset.exits - 1 else tuple(chosen) * (dataset.exits - 1)
    return msgspec.structs.replace(candidate, thresholds=thresholds)


def _one_for_all(scores: Array, limits: Array, values: Values) -> Values:
    """Return [G] the mean of `values` [N, K] where each sample leaves, for each of G limits at all exits."""
    rows = np.arange(len(scores))
    exits = [exits_of(scores, (float(limit),) * (scores.shape[1] - 1)) for limit in limits]
    return np.array([values[rows, exit_of].mean() for exit_of in exits])


def _all_combinations(stops: Indices, values: Values) -> Values:
    """Return [G, ..., G] the mean of `values` [N, K] where each sample leaves, for each combination of K - 1 limits.

    A sample leaves at exit k under limit g where g >= `stops[n, k]` [N, K-1]. Sums of values over cells of stops,
    accumulated from above for the exits it passes and from below for the one it leaves at, give all combinations at
    once.
    """
    samples, early = stops.shape
    limits = len(ENTROPIES)
    total = np.zeros((limits,) * early)
    for k in range(early + 1):
        depth = min(k + 1, early)
        cells = np.zeros((limits + 1,) * depth)
        np.add.at(cells, tuple(stops[:, :depth].T), values[:, k])
        for axis in range(depth):
            leaves_here = axis == k
            below = np.cumsum(cells, axis=axis).take(range(limits), axis=axis)
            cells = below if leaves_here else cells.sum(axis=axis, keepdims=True) - below
        total += cells.reshape(cells.shape + (1,) * (early - depth))
    return cast("Values", total / samples)

"""How `entropy` is fitted, and BranchyNet's search over combinations of entropies."""

from typing import cast

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.kind import FittingKind, PublishedMethod
from edgeexit.fitting.kinds.unfitted import unfitted, unfitted_variants
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.fitting.replay import replay
from edgeexit.policies import exits_of
from edgeexit.policies.entropy import Entropy
from edgeexit.policies.readout import Array

ENTROPIES = (1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0)
"""Thresholds in nats, from the authors' experiment with ResNet on CIFAR-10."""
_MAX_EXITS = 6
"""With more exits, the combinations do not fit in memory (17 ** 5 of them do)."""


def entropy_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Entropy, ...]:
    """Return entropy under fitted temperatures and under base temperatures.

    Raises FittingError for readouts without probabilities, which give the number of classes.
    """
    return unfitted_variants(Entropy, dataset, options, classes=_classes(dataset))


def branchynet_policy(dataset: ReadoutDataset, budget: float) -> Entropy:
    """Return entropy with the combination of lowest loss whose mean cost is at most `budget`.

    The paper tests entropies on held-out samples, and the user chooses the trade-off; the authors' code tries all
    combinations of a list. With more than six exits, all exits have the same entropy. Raises FittingError if no
    combination is within the budget, and for readouts without probabilities.

    Source: Teerapittayanon et al., ICPR 2016; `screen_branchy` in the authors' code.
    """
    candidate = unfitted(Entropy, dataset, classes=_classes(dataset))
    limits = (1 - np.array(ENTROPIES) / np.log(dataset.require_classes())).astype(np.float32)
    scores, predictions = replay(candidate, dataset)
    costs = np.broadcast_to(np.asarray(dataset.costs), scores.shape)
    losses = dataset.losses(predictions)
    if dataset.exits <= _MAX_EXITS:
        stops = np.searchsorted(-limits, -scores[:, :-1])  # index of the lowest entropy at which a sample exits
        mean_costs, mean_losses = _all_combinations(stops, costs), _all_combinations(stops, losses)
    else:
        mean_costs, mean_losses = _one_for_all(scores, limits, costs), _one_for_all(scores, limits, losses)
    within = mean_costs <= budget + 1e-12 * abs(budget)
    if not within.any():
        raise FittingError(
            f"a mean cost of {budget:g} cannot be reached: the lowest that BranchyNet's entropies give is "
            f"{mean_costs.min():g}"
        )
    order = np.lexsort((mean_costs.ravel(), np.where(within, mean_losses, np.inf).ravel()))
    places = np.unravel_index(order[0], mean_costs.shape)
    chosen = [float(limits[int(place)]) for place in places]
    thresholds = tuple(chosen) if len(chosen) == dataset.exits - 1 else tuple(chosen) * (dataset.exits - 1)
    return msgspec.structs.replace(candidate, thresholds=thresholds)


def _classes(dataset: ReadoutDataset) -> int:
    if dataset.classes is None:
        raise FittingError(
            "policy 'entropy' needs the number of classes, and the readouts hold no probabilities; record them with "
            "`probabilities=True`"
        )
    return dataset.classes


def _one_for_all(scores: Array, limits: Array, values: Values) -> Values:
    """Return [G] the mean of `values` [N, K] at the exits taken, for each of G thresholds used at all exits."""
    rows = np.arange(len(scores))
    exits = [exits_of(scores, (float(limit),) * (scores.shape[1] - 1)) for limit in limits]
    return np.array([values[rows, taken].mean() for taken in exits])


def _all_combinations(stops: Indices, values: Values) -> Values:
    """Return [G, ..., G] the mean of `values` [N, K] at the exits taken, for each combination of K - 1 thresholds.

    At threshold index g, the score of sample n reaches exit k if g >= `stops[n, k]` [N, K-1]. For each exit k, the
    values are added up in a histogram over the stops of exits 0 to k. Its cumulative sums give all combinations at
    once: the cells with stop <= g along axis k, where samples exit, and the cells with stop > g along the axes before
    it, where they continue.
    """
    samples, early = stops.shape
    limits = len(ENTROPIES)
    total = np.zeros((limits,) * early)
    for k in range(early + 1):
        depth = min(k + 1, early)
        cells = np.zeros((limits + 1,) * depth)
        np.add.at(cells, tuple(stops[:, :depth].T), values[:, k])
        for axis in range(depth):
            exits_here = axis == k
            below = np.cumsum(cells, axis=axis).take(range(limits), axis=axis)
            cells = below if exits_here else cells.sum(axis=axis, keepdims=True) - below
        total += cells.reshape(cells.shape + (1,) * (early - depth))
    return cast("Values", total / samples)


KIND = FittingKind(
    policy=Entropy,
    summary="1 - H / ln C, with the entropy H of C classes",
    learns=("temperatures",),
    source="BranchyNet (Teerapittayanon et al., ICPR 2016), which exits at H <= t",
    make_candidates=entropy_candidates,
    published=PublishedMethod(name="BranchyNet", parameter="budget", fit=branchynet_policy),
)

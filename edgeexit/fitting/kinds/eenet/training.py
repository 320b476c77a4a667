"""Alternating training of EENet's two functions: the scoring function, and the assignment of samples to exits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeexit.fitting.kinds.eenet.assignment import Layers, assigned, fit_assignment, start_layers
from edgeexit.fitting.kinds.eenet.scoring import Examples, fit_scoring, initial_weights, scores_of
from edgeexit.fitting.kinds.unfitted import unfitted
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.policies.eenet import Eenet

_ROUNDS = 2
_PENALTY, _PENALTY_SAMPLES = 0.1, 100
"""Strength of the L2 penalty that keeps scores near their initial values: `_PENALTY` + `_PENALTY_SAMPLES` / N."""
_ASSIGNMENT_SAMPLES = 2000
"""Maximum number of random samples for the assignment function, whose output hardly depends on its input."""
_ASSIGNMENT_ITERATIONS = 60
_DECIMALS = 6
"""Decimals of weights in documents."""


class Trained(NamedTuple):
    """The result of `train`."""

    weights: tuple[Values, ...]
    """[K-1][C + 2 + k] weights of the scoring function."""
    fractions: tuple[float, ...]
    """[K] fraction of a sample that the assignment function assigns to each exit, averaged over the samples."""


def train(examples: Examples, costs: Sequence[float], budget: float, *, seed: int) -> Trained:
    """Return a scoring function and exit fractions for a mean cost of `budget`, in the unit of the costs [K].

    The initial score is the highest probability, and a penalty keeps scores near it (`fit_scoring`); the authors use
    early stopping, a small learning rate and weight decay instead. The weight of sample n at exit k is its assignment
    there: w_nk = P_nk / sum_n P_nk. A budget outside the costs is clipped to them. The same seed gives the same result.

    Source: EENet (arXiv:2301.07099).
    """
    inputs, cost_array = examples.inputs, np.asarray(costs)
    reachable = min(max(budget, costs[0]), costs[-1])
    samples, exits, width = inputs.shape
    subset = np.random.default_rng(seed).permutation(samples)[:_ASSIGNMENT_SAMPLES]
    layers = start_layers(width, exits, seed)
    weights = start = initial_weights(exits, examples.classes)
    penalty = _PENALTY + _PENALTY_SAMPLES / samples
    scores = scores_of(inputs, weights)

    def assign(scores: Values, start: Sequence[Layers]) -> tuple[Layers, ...]:
        return fit_assignment(
            inputs[subset],
            scores[subset],
            start,
            costs=cost_array,
            budget=reachable,
            iterations=_ASSIGNMENT_ITERATIONS,
        )

    for _ in range(_ROUNDS):
        layers = assign(scores, layers)
        parts = assigned(inputs, scores, layers)
        weights = fit_scoring(examples, parts / parts.sum(axis=0), start, penalty, weights)
        scores = scores_of(inputs, weights)
    layers = assign(scores, layers)
    fractions = assigned(inputs, scores, layers).mean(axis=0)
    return Trained(weights, tuple(float(fraction) for fraction in fractions))


def with_weights(dataset: ReadoutDataset, weights: Sequence[Values]) -> Eenet:
    """Return EENet with weights [K-1][C + 2 + k], under the dataset's temperatures, without thresholds."""
    classes = dataset.require_classes()
    rounded = [tuple(round(float(value), _DECIMALS) for value in exit_weights) for exit_weights in weights]
    return unfitted(
        Eenet,
        dataset,
        class_weights=tuple(exit_weights[:classes] for exit_weights in rounded),
        statistic_weights=tuple(exit_weights[classes:] for exit_weights in rounded),
    )

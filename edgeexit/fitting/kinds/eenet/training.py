"""Alternating training of EENet's two functions: the scoring function, and the assignment of samples to exits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeexit.fitting.kinds.eenet.assignment import Layers, assigned, fit_assignment, start_layers
from edgeexit.fitting.kinds.eenet.examples import Examples
from edgeexit.fitting.kinds.eenet.scoring import Scoring, fit_scoring, initial_weights
from edgeexit.fitting.kinds.unfitted import unfitted
from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.policies.eenet import Eenet

_ROUNDS = 2
_PENALTY, _PENALTY_SAMPLES = 0.1, 100
"""Strength of the L2 penalty that keeps scores near their initial values: `_PENALTY` + `_PENALTY_SAMPLES` / N."""
_MIN_ASSIGNMENT_SAMPLES, _MAX_ASSIGNMENT_SAMPLES = 200, 2000
_MAX_ASSIGNMENT_INPUTS = 2**22
"""Inputs of the assignment function in its training, all samples and exits together: 32 MiB in float64."""
_ASSIGNMENT_ITERATIONS = 60
_DECIMALS = 6
"""Decimals of weights in documents."""


class Trained(NamedTuple):
    """The result of `train`."""

    weights: tuple[Values, ...]
    """[K-1][C + 2 + k] weights of the scoring function."""
    scores: Values
    """[N, K] the scores of the examples."""
    layers: tuple[Layers, ...]
    """[K-1] MLPs of the assignment function."""

    def fractions(self, examples: Examples) -> tuple[float, ...]:
        """Return the fraction [K] that the assignment function assigns to each exit, averaged over the samples."""
        return tuple(float(fraction) for fraction in assigned(examples, self.scores, self.layers).mean(axis=0))


def train(examples: Examples, costs: Sequence[float], budget: float, *, seed: int) -> Trained:
    """Return a scoring function and an assignment function for a mean cost of `budget`, in the unit of the costs [K].

    The initial score is the highest probability, and a penalty keeps scores near it (`fit_scoring`); the authors use
    early stopping, a small learning rate and weight decay instead. The weight of sample n at exit k is its assignment
    there: w_nk = P_nk / sum_n P_nk. A budget outside the costs is clipped to them. The same seed gives the same result.

    The assignment function is trained on random samples (`assignment_samples`), because its output hardly depends on
    its input. The scoring function is trained on all samples.

    Source: EENet (arXiv:2301.07099).
    """
    cost_array, reachable = np.asarray(costs), min(max(budget, costs[0]), costs[-1])
    samples, exits = examples.correct.shape
    subset = assignment_samples(samples, exits, examples.classes, seed)
    drawn = examples.take(subset)
    start = initial_weights(exits, examples.classes)
    scoring = Scoring(start, examples.initial_scores)
    layers = start_layers(examples.classes, exits, seed)
    penalty = _PENALTY + _PENALTY_SAMPLES / samples

    def assign(scores: Values, layers: Sequence[Layers]) -> tuple[Layers, ...]:
        return fit_assignment(
            drawn, scores[subset], layers, costs=cost_array, budget=reachable, iterations=_ASSIGNMENT_ITERATIONS
        )

    for _ in range(_ROUNDS):
        layers = assign(scoring.scores, layers)
        parts = assigned(examples, scoring.scores, layers)
        scoring = fit_scoring(examples, parts / parts.sum(axis=0), start, penalty, scoring.weights)
    return Trained(*scoring, assign(scoring.scores, layers))


def assignment_samples(samples: int, exits: int, classes: int, seed: int) -> Indices:
    """Return the indices of the random samples that the assignment function is trained on.

    There are at most 2,000, and fewer where the inputs of all early exits would need more than 32 MiB, but at least
    200.
    """
    affordable = _MAX_ASSIGNMENT_INPUTS // ((exits - 1) * classes)
    count = min(max(affordable, _MIN_ASSIGNMENT_SAMPLES), _MAX_ASSIGNMENT_SAMPLES)
    return np.random.default_rng(seed).permutation(samples)[:count]


def with_weights(dataset: ReadoutDataset, weights: Sequence[Values]) -> Eenet:
    """Return EENet with weights [K-1][C + 2 + k], under the dataset's temperatures, without thresholds."""
    rounded = [tuple(round(float(value), _DECIMALS) for value in exit_weights) for exit_weights in weights]
    classes = dataset.require_classes()
    return unfitted(
        Eenet,
        dataset,
        class_weights=tuple(exit_weights[:classes] for exit_weights in rounded),
        statistic_weights=tuple(exit_weights[classes:] for exit_weights in rounded),
    )

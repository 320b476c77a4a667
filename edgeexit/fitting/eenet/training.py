"""Learn both functions of an EENet in turns: who is to leave where, and which exit is right about whom."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeexit.fitting.eenet.assignment import Layers, assigned, fit_assignment, start_layers
from edgeexit.fitting.eenet.scoring import Examples, fit_scoring, identity, scores_of
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.policies.eenet import Eenet

_ROUNDS = 2
_PULL, _PULL_SAMPLES = 0.1, 100
"""How strongly scores are held near the identity: `_PULL` on many samples, more on few."""
_ASSIGNMENT_SAMPLES = 2000
"""The assignment is learned on so many samples, drawn at random: what it learns hardly differs between inputs."""
_ASSIGNMENT_ITERATIONS = 60
_DECIMALS = 6
"""Of weights in documents."""


class Learned(NamedTuple):
    """What came of it."""

    weights: tuple[Values, ...]
    """[K-1][C + 2 + k] of the scoring function."""
    fractions: tuple[float, ...]
    """[K] of the samples that the assignment function gives to each exit on average."""


def learn(examples: Examples, costs: Sequence[float], budget: float, *, seed: int) -> Learned:
    """Return a scoring function and shares for an average budget, in the unit of the costs [K].

    Scores start at the identity on the highest probability and are held near it (`fit_scoring`), where the authors stop
    early, at a small learning rate, and decay weights. Each sample weighs on an exit as much as it is assigned to it:
    w_nk = P_nk / sum_n P_nk. A budget outside the costs is taken as the nearest of them. The same seed gives the same
    result. Source: EENet (arXiv:2301.07099).
    """
    inputs, prices = examples.inputs, np.asarray(costs)
    reachable = min(max(budget, costs[0]), costs[-1])
    samples, exits, width = inputs.shape
    some = np.random.default_rng(seed).permutation(samples)[:_ASSIGNMENT_SAMPLES]
    layers = start_layers(width, exits, seed)
    weights = start = identity(exits, examples.classes)
    pull = _PULL + _PULL_SAMPLES / samples
    scores = scores_of(inputs, weights)

    def assign(scores: Values, start: Sequence[Layers]) -> tuple[Layers, ...]:
        return fit_assignment(
            inputs[some], scores[some], start, costs=prices, budget=reachable, iterations=_ASSIGNMENT_ITERATIONS
        )

    for _ in range(_ROUNDS):
        layers = assign(scores, layers)
        parts = assigned(inputs, scores, layers)
        weights = fit_scoring(examples, parts / parts.sum(axis=0), start, pull, weights)
        scores = scores_of(inputs, weights)
    layers = assign(scores, layers)
    fractions = assigned(inputs, scores, layers).mean(axis=0)
    return Learned(weights, tuple(float(fraction) for fraction in fractions))


def unfitted(dataset: ReadoutDataset, weights: Sequence[Values]) -> Eenet:
    """Return EENet with these weights [K-1][C + 2 + k], under the evidence's temperatures, without thresholds."""
    classes = dataset.probabilities.shape[2]
    rounded = [tuple(round(float(value), _DECIMALS) for value in own) for own in weights]
    return Eenet(
        temperatures=dataset.temperatures,
        thresholds=(None,) * (dataset.exits - 1),
        class_weights=tuple(own[:classes] for own in rounded),
        statistic_weights=tuple(own[classes:] for own in rounded),
    )

"""EENet: the loss of its assignment function, and the budget."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from edgeexit.fitting.kinds.eenet.assignment import (
    assigned,
    assignment_loss,
    fit_assignment,
    flatten,
    start_layers,
    stick_breaking,
    targets_of,
    unflatten,
)
from edgeexit.fitting.kinds.eenet.scoring import examples_of, initial_weights, scores_of
from tests.fitting.populations import COSTS, population


def test_the_gradient_of_the_assignment_loss_equals_finite_differences():
    examples = examples_of(population(60, seed=1, classes=3))
    scores = scores_of(examples.inputs, initial_weights(4, 3))
    layers = start_layers(5, 4, seed=0)
    flat = flatten(layers) + np.random.default_rng(0).normal(0, 0.5, len(flatten(layers)))
    features = [np.hstack([examples.inputs[:, k], scores[:, :k]]) for k in range(3)]

    def loss(numbers):
        return assignment_loss(unflatten(numbers, layers), features, targets_of(scores), np.array(COSTS), 1.7)

    error = check_grad(lambda f: loss(f)[0], lambda f: flatten(loss(f)[1]), flat)
    assert error < 1e-4 * np.linalg.norm(flatten(loss(flat)[1]))


def test_stick_breaking_of_a_worked_example():
    np.testing.assert_allclose(stick_breaking(np.array([0.8824, 0.7796])), [0.8824, 0.0917, 0.0259], atol=5e-5)


def test_unflatten_inverts_flatten():
    layers = start_layers(6, 3, seed=4)
    for before, after in zip(layers, unflatten(flatten(layers), layers), strict=True):
        for expected, found in zip(before, after, strict=True):
            np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("budget", [1.3, 2.0, 3.5])
def test_assignment_meets_the_budget(budget):
    examples = examples_of(population(300, seed=2))
    scores = scores_of(examples.inputs, initial_weights(4, 10))
    start = start_layers(12, 4, seed=0)
    layers = fit_assignment(examples.inputs, scores, start, costs=np.array(COSTS), budget=budget, iterations=100)
    parts = assigned(examples.inputs, scores, layers)
    np.testing.assert_allclose(parts.sum(axis=1), 1)
    assert (parts @ np.array(COSTS)).mean() == pytest.approx(budget, rel=0.01)

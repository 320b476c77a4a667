"""EENet: the loss of its assignment function, and the budget."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from edgeexit.fitting.kinds.eenet.assignment import (
    assigned,
    assignment_loss,
    fit_assignment,
    flatten,
    hidden_units,
    start_layers,
    stick_breaking,
    targets_of,
    unflatten,
)
from edgeexit.fitting.kinds.eenet.examples import examples_of
from tests.fitting.populations import COSTS, population


def test_the_gradient_of_the_assignment_loss_equals_finite_differences():
    examples = examples_of(population(60, seed=1, classes=3))
    scores = examples.initial_scores
    layers = start_layers(3, 4, seed=0)
    flat = flatten(layers) + np.random.default_rng(0).normal(0, 0.5, len(flatten(layers)))
    features = [examples.inputs(k, scores).matrix() for k in range(3)]

    def loss(numbers):
        return assignment_loss(unflatten(numbers, layers), features, targets_of(scores), np.array(COSTS), 1.7)

    error = check_grad(lambda f: loss(f)[0], lambda f: flatten(loss(f)[1]), flat)
    assert error < 1e-4 * np.linalg.norm(flatten(loss(flat)[1]))


def test_stick_breaking_of_a_worked_example():
    np.testing.assert_allclose(stick_breaking(np.array([0.8824, 0.7796])), [0.8824, 0.0917, 0.0259], atol=5e-5)


def test_unflatten_inverts_flatten():
    layers = start_layers(4, 3, seed=4)
    for before, after in zip(layers, unflatten(flatten(layers), layers), strict=True):
        for expected, found in zip(before, after, strict=True):
            np.testing.assert_array_equal(expected, found)


def test_hidden_units_are_half_of_the_inputs_up_to_180_classes():
    assert [hidden_units(inputs) for inputs in (4, 12, 102, 181)] == [2, 6, 51, 90]


@pytest.mark.parametrize("classes", [200, 1000, 10_000, 50_000])
def test_the_parameters_grow_no_faster_than_the_classes(classes):
    few, many = (len(flatten(start_layers(number, 3, seed=0))) for number in (classes, 2 * classes))
    assert many <= 2.1 * few
    assert few <= max(2 * 2**14, 10 * classes) * 1.1


@pytest.mark.parametrize("budget", [1.3, 2.0, 3.5])
def test_assignment_meets_the_budget(budget):
    examples = examples_of(population(300, seed=2))
    scores = examples.initial_scores
    start = start_layers(10, 4, seed=0)
    layers = fit_assignment(examples, scores, start, costs=np.array(COSTS), budget=budget, iterations=100)
    parts = assigned(examples, scores, layers)
    np.testing.assert_allclose(parts.sum(axis=1), 1)
    assert (parts @ np.array(COSTS)).mean() == pytest.approx(budget, rel=0.01)

"""EENet: gradients of its losses, budgets, candidates, and the paper's method."""

import msgspec
import numpy as np
import pytest
from scipy.optimize import check_grad

from edgeexit.errors import FittingError
from edgeexit.fitting import Budget, FitOptions, MapLosses, ReadoutDataset, fit_policy
from edgeexit.fitting.kinds import make_candidates
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
from edgeexit.fitting.kinds.eenet.kind import eenet_policy
from edgeexit.fitting.kinds.eenet.scoring import cross_entropy, examples_of, exit_loss, fit_scoring, identity, scores_of
from edgeexit.fitting.kinds.eenet.training import train, with_weights
from edgeexit.fitting.options import CandidateOptions
from edgeexit.policies import exits_of, simulate
from edgeexit.policies.confidence import Confidence
from tests.fitting.populations import COSTS, population


def outcome(policy, dataset):
    """Return mean loss and mean cost of a policy on a dataset at temperature 1."""
    seen = dataset.at(policy.temperatures)
    scores, predictions = simulate(policy, seen.readouts)
    exits = exits_of(scores, policy.thresholds)
    return seen.losses(predictions)[np.arange(len(exits)), exits].mean(), np.asarray(seen.costs)[exits].mean()


def test_gradient_of_the_scoring_loss():
    examples = examples_of(population(100, seed=1))
    random = np.random.default_rng(0)
    features, anchor = random.normal(0.4, 0.5, (100, 7)), random.normal(size=7)
    emphasis = random.dirichlet(np.ones(100))

    def loss(weights):
        return exit_loss(weights, features, examples.correct[:, 0], emphasis=emphasis, anchor=anchor, penalty=0.3)

    at = random.normal(size=7)
    scores = features @ at
    assert (scores < 0).any()  # the tangents are tested, too
    assert (scores > 1).any()
    error = check_grad(lambda w: loss(w)[0], lambda w: loss(w)[1], at)
    assert error < 1e-5 * np.linalg.norm(loss(at)[1])


def test_gradient_of_the_assignment_loss():
    examples = examples_of(population(60, seed=1, classes=3))
    scores = scores_of(examples.inputs, identity(4, 3))
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
    scores = scores_of(examples.inputs, identity(4, 10))
    start = start_layers(12, 4, seed=0)
    layers = fit_assignment(examples.inputs, scores, start, costs=np.array(COSTS), budget=budget, iterations=100)
    parts = assigned(examples.inputs, scores, layers)
    np.testing.assert_allclose(parts.sum(axis=1), 1)
    assert (parts @ np.array(COSTS)).mean() == pytest.approx(budget, rel=0.01)


def test_cross_entropy_has_a_gradient_outside_zero_to_one():
    _, slope = cross_entropy(np.array([1.2, -0.3, 0.5]), np.array([0.0, 1.0, 1.0]))
    assert slope[0] > 0  # too high for a wrong prediction
    assert slope[1] < 0  # too low for a right one
    losses, _ = cross_entropy(np.array([0.5, 0.9]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(losses, [np.log(2), -np.log(0.1)])


def test_trained_scores_separate_right_from_wrong_better_than_confidence():
    """The first exit is overconfident in one class: the scores must learn a lower weight for it."""
    dataset = overconfident_in_one_class(1500)
    examples = examples_of(dataset)
    start = identity(3, 4)
    weights = fit_scoring(examples, np.full((1500, 3), 1 / 1500), start, 0.01, start)
    rank = [separation(scores_of(examples.inputs, w)[:, 0], examples.correct[:, 0]) for w in (start, weights)]
    assert rank[1] > rank[0] + 0.1


def test_the_policy_computes_the_trained_scores():
    dataset = population(200, seed=3)
    examples = examples_of(dataset)
    trained = train(examples, dataset.costs, 2.0, seed=0)
    scores = simulate(with_weights(dataset, trained.weights), dataset.readouts).scores
    np.testing.assert_allclose(scores, scores_of(examples.inputs, trained.weights), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_untrained_scores_equal_confidence_to_the_bit(classes):
    dataset = population(300, seed=4, classes=classes)
    start = make_candidates("eenet", dataset, CandidateOptions(budget=2.0, temperatures=False))[0]
    plain = Confidence(temperatures=dataset.temperatures, thresholds=start.thresholds)
    np.testing.assert_array_equal(simulate(start, dataset.readouts).scores, simulate(plain, dataset.readouts).scores)


@pytest.mark.parametrize("budget", [1.3, 1.8, 2.7])
@pytest.mark.parametrize(
    ("dataset", "temperatures"),
    [
        (population(300, seed=5, sharpness=3.0), True),
        (population(150, seed=5, exits=3, sharpness=3.0), False),
        (population(150, seed=6, exits=3, classes=2), True),
        (population(150, seed=7, exits=3, labels=False), False),
        (population(20, seed=8, exits=3), True),
    ],
    ids=["overconfident, fitted temperatures", "overconfident", "two classes", "no labels", "few samples"],
)
def test_never_worse_than_confidence_on_the_fitting_data(dataset, temperatures, budget):
    plain, fit = (
        fit_policy(kind, dataset, Budget(cost=budget), FitOptions(temperatures=temperatures))
        for kind in ("confidence", "eenet")
    )
    assert fit.expected.mean_loss <= plain.expected.mean_loss
    assert fit.expected.mean_cost <= budget


def test_trained_scores_are_used_if_they_are_better():
    fit, plain = (
        fit_policy(kind, overconfident_in_one_class(800), Budget(cost=1.8)) for kind in ("eenet", "confidence")
    )
    assert fit.expected.mean_loss < plain.expected.mean_loss - 0.02


def test_the_same_seed_gives_the_same_policy():
    dataset = population(200, seed=9)
    first, second, other = (
        make_candidates("eenet", dataset, CandidateOptions(budget=2.0, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == second
    assert eenet_policy(dataset, 2.0, seed=1) == eenet_policy(dataset, 2.0, seed=1)
    assert [c.temperatures for c in first] == [c.temperatures for c in other]


def test_candidates_at_given_and_at_fitted_temperatures():
    dataset = population(500, seed=10, sharpness=4.0)
    candidates = make_candidates("eenet", dataset, CandidateOptions(budget=2.0))
    temperatures = [candidate.temperatures for candidate in candidates]
    assert temperatures[0] == temperatures[2] != dataset.temperatures
    assert temperatures[1] == temperatures[3] == dataset.temperatures
    given = make_candidates("eenet", dataset, CandidateOptions(budget=2.0, temperatures=False))
    assert [candidate.temperatures for candidate in given] == [dataset.temperatures] * 2


def test_readouts_without_probabilities_are_refused():
    dataset = population(50, seed=11)
    bare = msgspec.structs.replace(dataset, readouts=dataset.readouts[:, :, :4])
    with pytest.raises(FittingError, match="probabilities of all classes"):
        fit_policy("eenet", bare, Budget(cost=2.0))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("right", [0.0, 1.0], ids=["never right", "always right"])
def test_an_exit_that_is_never_or_always_right(right):
    dataset = population(60, seed=12, classes=3)
    readouts, labels = dataset.readouts.copy(), dataset.labels
    assert labels is not None
    readouts[:, 1] = 0
    predictions = labels if right else (labels + 1) % 3
    readouts[np.arange(60), 1, 4 + predictions] = 1
    readouts[:, 1, :3] = np.stack([predictions, np.ones(60), np.zeros(60)], axis=1)
    dataset = msgspec.structs.replace(dataset, readouts=readouts)
    fit = fit_policy("eenet", dataset, Budget(cost=2.0))
    assert fit.expected.mean_loss <= fit_policy("confidence", dataset, Budget(cost=2.0)).expected.mean_loss
    assert outcome(eenet_policy(dataset, 2.0), dataset)[1] <= 2.0


@pytest.mark.filterwarnings("error")
def test_segmentation_is_learned_from_fractions_of_right_pixels():
    dataset = population(200, seed=13, classes=4)
    errors = np.random.default_rng(0).random((200, 4)).astype(np.float32)
    errors[:, 0] = np.clip(1 - dataset.readouts[:, 0, 1], 0, 1)
    maps = msgspec.structs.replace(dataset, labels=None, maps=MapLosses(disagreement=errors, errors=errors))
    np.testing.assert_allclose(examples_of(maps).correct, 1 - errors)
    fit = fit_policy("eenet", maps, Budget(cost=2.0))
    assert fit.expected.mean_loss <= fit_policy("confidence", maps, Budget(cost=2.0)).expected.mean_loss


@pytest.mark.parametrize("budget", [1.0, 1.5, 2.2, 3.0])
def test_the_paper_s_method_keeps_the_budget(budget):
    dataset = population(333, seed=14)
    _, cost = outcome(eenet_policy(dataset, budget), dataset)
    assert 0.97 * budget <= cost <= budget


def test_a_budget_below_the_first_exit_is_refused():
    with pytest.raises(FittingError, match="cannot be reached"):
        fit_policy("eenet", population(50, seed=15), Budget(cost=0.9))


def test_a_budget_above_the_full_model_can_be_fitted():
    fit = fit_policy("eenet", population(50, seed=15), Budget(cost=1e9))
    assert fit.expected.mean_loss <= fit.expected.final_loss


def test_the_paper_s_method_refuses_a_budget_below_the_first_exit():
    with pytest.raises(FittingError, match="first exit alone costs 1"):
        eenet_policy(population(50, seed=15), 0.9)


def overconfident_in_one_class(samples: int) -> ReadoutDataset:
    """Draw a dataset whose first exit is confident of class 0 on half of the samples, and mostly wrong there."""
    dataset = population(samples, seed=16, exits=3, classes=4)
    readouts, labels = dataset.readouts.copy(), dataset.labels
    assert labels is not None
    affected = np.random.default_rng(1).random(samples) < 0.5
    readouts[affected, 0, 0] = 0
    readouts[affected, 0, 1:3] = [0.97, 0.01]
    readouts[affected, 0, 3] = -(0.97 * np.log(0.97) + 3 * 0.01 * np.log(0.01))
    readouts[affected, 0, 4:] = [0.97, 0.01, 0.01, 0.01]
    return msgspec.structs.replace(dataset, readouts=readouts)


def separation(scores, correct):
    """Return the probability that a right prediction has a higher score than a wrong one (AUROC)."""
    right, wrong = scores[correct == 1], scores[correct == 0]
    above, equal = right[:, None] > wrong, right[:, None] == wrong
    return float((above + 0.5 * equal).mean())

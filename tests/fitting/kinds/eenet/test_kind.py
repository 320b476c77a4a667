"""EENet: its candidates, compared with confidence, and the paper's method."""

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import Budget, FitOptions, MapLosses, ReadoutDataset, fit_policy
from edgeexit.fitting.kinds import make_candidates
from edgeexit.fitting.kinds.eenet.examples import examples_of
from edgeexit.fitting.kinds.eenet.kind import eenet_policy
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.replay import replay
from edgeexit.policies import exits_of
from edgeexit.policies.confidence import Confidence
from tests.fitting.kinds.eenet.overconfident import overconfident_in_one_class
from tests.fitting.populations import population


def outcome(policy, dataset):
    """Return mean loss and mean cost of a policy on a dataset."""
    scores, predictions = replay(policy, dataset)
    exits = exits_of(scores, policy.thresholds)
    return dataset.losses(predictions)[np.arange(len(exits)), exits].mean(), np.asarray(dataset.costs)[exits].mean()


@pytest.mark.parametrize("classes", [2, 10])
def test_the_untrained_scores_equal_confidence_to_the_bit(classes):
    dataset = population(300, seed=4, classes=classes)
    start = make_candidates("eenet", dataset, CandidateOptions(budget=2.0, temperatures=False))[0]
    plain = Confidence(temperatures=dataset.temperatures, thresholds=start.thresholds)
    np.testing.assert_array_equal(replay(start, dataset).scores, replay(plain, dataset).scores)


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
def test_eenet_is_never_worse_than_confidence_on_the_fitting_samples(dataset, temperatures, budget):
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


def test_candidates_at_base_and_at_fitted_temperatures():
    dataset = population(500, seed=10, sharpness=1.5)
    candidates = make_candidates("eenet", dataset, CandidateOptions(budget=2.0))
    temperatures = [candidate.temperatures for candidate in candidates]
    assert temperatures[0] == temperatures[2] != dataset.temperatures
    assert temperatures[1] == temperatures[3] == dataset.temperatures
    given = make_candidates("eenet", dataset, CandidateOptions(budget=2.0, temperatures=False))
    assert [candidate.temperatures for candidate in given] == [dataset.temperatures] * 2


def test_readouts_without_probabilities_are_refused():
    bare = msgspec.structs.replace(population(50, seed=11), logits=None)
    with pytest.raises(FittingError, match="probabilities of all classes"):
        fit_policy("eenet", bare, Budget(cost=2.0))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("right", [0.0, 1.0], ids=["never right", "always right"])
def test_an_exit_that_is_never_or_always_right_can_be_fitted(right):
    dataset = population(60, seed=12, classes=3)
    assert dataset.logits is not None
    assert dataset.labels is not None
    logits = dataset.logits.array.copy()
    logits[:, 1] = 0
    logits[np.arange(60), 1, dataset.labels if right else (dataset.labels + 1) % 3] = 200  # probabilities 1 and 0
    dataset = ReadoutDataset.from_logits(logits, costs=dataset.costs, labels=dataset.labels)
    fit = fit_policy("eenet", dataset, Budget(cost=2.0))
    assert fit.expected.mean_loss <= fit_policy("confidence", dataset, Budget(cost=2.0)).expected.mean_loss
    assert outcome(eenet_policy(dataset, 2.0), dataset)[1] <= 2.0


@pytest.mark.filterwarnings("error")
def test_segmentation_is_learned_from_fractions_of_right_pixels():
    dataset = population(200, seed=13, classes=4)
    errors = np.random.default_rng(0).random((200, 4)).astype(np.float32)
    errors[:, 0] = np.clip(1 - dataset.readouts[:, 0, 1], 0, 1)
    losses = MapLosses(
        disagreement=errors,
        errors=errors,
        probabilities=np.stack([dataset.exit_probabilities(k) for k in range(4)], axis=1),
    )
    maps = msgspec.structs.replace(dataset, labels=None, logits=None, maps=losses)
    np.testing.assert_allclose(examples_of(maps).correct, 1 - errors)
    fit = fit_policy("eenet", maps, Budget(cost=2.0))
    assert fit.expected.mean_loss <= fit_policy("confidence", maps, Budget(cost=2.0)).expected.mean_loss


@pytest.mark.parametrize("budget", [1.0, 1.5, 2.2, 3.0])
def test_the_paper_s_method_stays_within_the_budget(budget):
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

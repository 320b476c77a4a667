"""`choose_policy` compares the kinds at one cost and takes the simplest of the best."""

import re

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import (
    FITTING_KINDS,
    Budget,
    FitOptions,
    MaxDrop,
    MaxRisk,
    ReadoutDataset,
    choose_policy,
    fit_policy,
)
from edgeexit.fitting.kinds import registry
from edgeexit.fitting.splits import choosing_and_certifying
from edgeexit.policies.readout import ENTROPY, P1, TOP1
from edgeexit.progress import Progress
from tests.fitting.populations import population

PLAIN = FitOptions(temperatures=False)


def chosen(choice):
    return [comparison.kind for comparison in choice.comparisons if comparison.chosen]


def with_random_confidences(dataset):
    """Replace the confidences by noise, so that only agreement between exits is informative."""
    readouts = dataset.readouts.copy()
    readouts[:, :, P1] = np.random.default_rng(0).random(readouts.shape[:2])
    return msgspec.structs.replace(dataset, readouts=readouts)


def test_the_simpler_of_two_equal_kinds_is_chosen():
    """With two classes, confidence and margin rank the samples in the same order."""
    dataset = population(400, seed=1, classes=2)
    choice = choose_policy(dataset, Budget(cost=2.0), kinds=("confidence", "margin"), options=PLAIN)
    first, second = choice.comparisons
    assert first.mean_loss == pytest.approx(second.mean_loss, abs=0.01)
    assert chosen(choice) == ["confidence"] == [choice.fit.policy.kind]


def test_a_better_kind_is_chosen_even_if_it_is_not_the_simplest():
    dataset = with_random_confidences(population(1500, seed=2))
    choice = choose_policy(dataset, Budget(cost=2.5), kinds=("confidence", "patience"), options=PLAIN)
    assert chosen(choice) == ["patience"] == [choice.fit.policy.kind]
    confidence = choice.comparisons[0]
    assert confidence.behind > 2 * confidence.standard_error


def test_a_mean_loss_is_never_negative():
    """If two exits agree, the final one agrees: patience is never wrong, and costs less than the common cost."""
    random = np.random.default_rng(0)
    final, chance = random.integers(0, 2, 400), random.random(400)
    first = np.where(chance < 0.25, 1 - final, final)
    second = np.where((chance > 0.25) & (chance < 0.5), 1 - final, final)
    readouts = random.random((400, 3, 4)).astype(np.float32)
    readouts[:, :, TOP1] = np.stack([first, second, final], axis=1)
    dataset = ReadoutDataset(readouts=readouts, costs=(1.0, 2.0, 3.0), temperatures=(1.0,) * 3)
    choice = choose_policy(dataset, Budget(cost=2.7), kinds=("confidence", "patience"), options=PLAIN)
    assert choice.comparisons[1].mean_cost < 2.7
    assert choice.comparisons[1].mean_loss == 0


def test_the_chosen_kind_is_fitted_on_all_samples():
    dataset, goal = population(500, seed=3), MaxDrop(drop=0.02)
    choice = choose_policy(dataset, goal, kinds=("confidence", "beem"))
    assert choice.fit == fit_policy(choice.fit.policy.kind, dataset, goal)
    assert choice.cost == pytest.approx(fit_policy("confidence", dataset, goal, PLAIN).expected.mean_cost)


def test_under_a_risk_the_certifying_samples_are_not_used_in_the_comparison():
    dataset = population(600, seed=4)
    _, certifying = choosing_and_certifying(600, seed=0)
    readouts = dataset.readouts.copy()
    readouts[certifying, 0, TOP1] = 0
    readouts[certifying, :, P1] = 0.5
    readouts[certifying, :, ENTROPY] = 1.0
    changed = msgspec.structs.replace(dataset, readouts=readouts)
    goal = MaxRisk(risk=0.1)
    choices = [choose_policy(each, goal, kinds=("confidence", "beem")) for each in (dataset, changed)]
    assert choices[0].comparisons == choices[1].comparisons
    assert choices[0].samples == 200


def test_a_kind_that_cannot_be_fitted_is_reported_and_the_others_are_compared():
    dataset = population(300, seed=5)
    bare = msgspec.structs.replace(dataset, logits=None)
    choice = choose_policy(bare, Budget(cost=2.0), kinds=("confidence", "eenet"))
    assert "probabilities" in choice.comparisons[1].failure
    assert chosen(choice) == ["confidence"]
    with pytest.raises(FittingError, match="no kind of policy can be fitted; eenet: "):
        choose_policy(bare, Budget(cost=2.0), kinds=("eenet",))


@pytest.mark.filterwarnings("error")
def test_a_fold_can_lack_a_class():
    dataset = population(60, seed=7, exits=3, classes=2)
    rare = msgspec.structs.replace(dataset, labels=np.eye(1, 60, 30, dtype=np.int64)[0])
    choice = choose_policy(rare, Budget(cost=2.0))
    assert all(comparison.failure is None for comparison in choice.comparisons)


class Steps(Progress):
    """Records the steps and how far each of them advanced."""

    def __init__(self):
        self.steps = {}

    def step(self, name):
        self.name = name
        self.steps[name] = 0

    def advance(self, amount=1, total=None):
        assert total == 3
        self.steps[self.name] += amount


def test_progress_has_a_step_per_kind_that_advances_with_each_fold():
    progress = Steps()
    choose_policy(
        population(200, seed=6),
        Budget(cost=2.0),
        kinds=("confidence", "beem"),
        options=FitOptions(folds=3),
        progress=progress,
    )
    assert list(progress.steps.items()) == [("confidence", 3), ("beem", 3), ("confidence, on all samples", 0)]


@pytest.mark.parametrize("folds", [1, 0, -2])
def test_fewer_than_two_folds_are_refused(folds):
    with pytest.raises(FittingError, match=f"folds {folds} must be at least 2"):
        choose_policy(population(50, seed=1), Budget(cost=2.0), options=FitOptions(folds=folds))


def test_a_comparison_of_no_kinds_is_refused_with_their_names():
    with pytest.raises(FittingError, match="no kinds are given to compare; name some of confidence, entropy"):
        choose_policy(population(50, seed=1), Budget(cost=2.0), kinds=())


def test_a_kind_that_needs_too_much_memory_is_left_out_with_the_reason(monkeypatch):
    def no_memory(dataset, options):
        raise MemoryError("Unable to allocate 9 TiB")

    kind = msgspec.structs.replace(FITTING_KINDS["margin"], make_candidates=no_memory)
    monkeypatch.setitem(registry._kinds, "margin", kind)
    choice = choose_policy(population(100, seed=1), Budget(cost=2.0), kinds=("margin", "confidence"))
    assert choice.fit.policy.kind == "confidence"
    assert re.search("policy 'margin' .* more memory than is free .*9 TiB", choice.comparisons[0].failure)


def test_fewer_samples_than_folds_are_refused():
    with pytest.raises(
        FittingError,
        match="4 samples are too few to compare policies in 5 folds; give more samples, or name a kind of policy",
    ):
        choose_policy(population(4, seed=0), Budget(cost=2.0))

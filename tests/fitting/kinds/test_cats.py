"""CATs: its meta classifiers, and the paper's threshold."""

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import MapLosses, expect
from edgeexit.fitting.kinds.cats import cats_rule, conformal_threshold
from edgeexit.policies import simulate
from tests.fitting.only_candidate import only_candidate
from tests.fitting.populations import of_readouts, population, readout


def approx(thresholds):
    return pytest.approx(thresholds, abs=1e-6)


def test_the_score_estimates_the_probability_of_agreement():
    """Agreement is drawn from sigmoid(2 p1 + (p1 - p2) - H + 0.5)."""
    random = np.random.default_rng(0)
    p1 = random.uniform(0.4, 1, 20_000)
    p2, entropy = (1 - p1) * random.uniform(0, 1, 20_000), random.uniform(0, 2, 20_000)
    chance = 1 / (1 + np.exp(-(2 * p1 + (p1 - p2) - entropy + 0.5)))
    first = np.stack([random.random(20_000) > chance, p1, p2, entropy], axis=1)
    dataset = of_readouts(np.stack([first, np.tile(readout(0.9, 0.1), (20_000, 1))], axis=1))
    scores = simulate(only_candidate("cats", dataset), dataset.readouts).scores[:, 0]
    assert np.abs(scores - chance).max() < 0.04


@pytest.mark.parametrize("first_class", [0, 1])
def test_an_exit_that_always_or_never_agrees_can_be_fitted(first_class):
    rows = [[readout(p, 1 - p, 0.3, first_class), readout(0.9, 0.1)] for p in (0.6, 0.7, 0.8, 0.9)]
    dataset = of_readouts(rows, repeat=50)
    scores = simulate(only_candidate("cats", dataset), dataset.readouts).scores[:, 0]
    assert (scores > 0.95).all() if first_class == 0 else (scores < 0.05).all()


def test_the_threshold_is_the_corrected_quantile_of_the_highest_disagreeing_scores():
    """Nine samples disagree, with highest scores .1 to .9: the 8th for eps .2; eps .05 needs more samples."""
    scores = np.stack([np.arange(1, 10) / 10, np.full(9, 0.05)], axis=1).astype(np.float32)
    scores = np.concatenate([scores, [[0.99, 0.99]]]).astype(np.float32)
    disagrees = np.array([[True, True]] * 9 + [[False, False]])
    threshold = conformal_threshold(scores, disagrees, 0.2)
    assert threshold == approx(0.8)
    assert threshold > np.float32(0.8)  # a sample exits strictly above it
    assert conformal_threshold(scores, disagrees, 0.05) is None


def test_the_threshold_depends_on_disagreeing_exits_only():
    scores = np.array([[0.2, 0.9]] * 9, dtype=np.float32)
    assert conformal_threshold(scores, np.array([[True, False]] * 9), 0.2) == approx(0.2)


def test_the_disagreement_under_the_rule_is_below_eps_and_cost_is_saved():
    fresh = population(20_000, seed=99)
    outcomes = [expect(cats_rule(population(600, seed=seed), 0.1), fresh) for seed in range(20)]
    assert np.mean([outcome.disagreement for outcome in outcomes]) <= 0.1
    assert np.mean([outcome.mean_cost for outcome in outcomes]) < 3.0


@pytest.mark.parametrize("eps", [0.0, 1.0, -1.0])
def test_an_eps_that_is_not_between_0_and_1_is_refused(eps):
    with pytest.raises(FittingError, match="eps"):
        cats_rule(population(100, seed=1), eps)


def test_the_rule_needs_one_sample_per_half():
    with pytest.raises(FittingError, match="1 samples are too few"):
        cats_rule(population(1, seed=1), 0.1)
    assert cats_rule(population(2, seed=1), 0.1).thresholds == (None,) * 3


def test_the_rule_refuses_segmentation():
    dataset = population(100, seed=1, labels=False)
    maps = msgspec.structs.replace(dataset, maps=MapLosses(disagreement=np.zeros((100, 4), dtype=np.float32)))
    with pytest.raises(FittingError, match="a sample agrees on a fraction of its pixels"):
        cats_rule(maps, 0.1)

"""Expected losses: the regression of losses on scores."""

import numpy as np
import pytest
from scipy.special import expit, ndtri

from edgeexit.fitting.smoothing import expected_losses


def drawn(samples: int, chance, *, seed: int = 0):
    """Draw scores [N, 2] and losses; `chance` is the probability of a loss, given the rank of the score from 0 to 1."""
    random = np.random.default_rng(seed)
    places = (np.arange(samples) + 0.5) / samples
    scores = np.stack([places, random.random(samples)], axis=1).astype(np.float32)
    losses = random.random((samples, 2)) < np.stack([chance(places), np.full(samples, 0.1)], axis=1)
    return scores, losses.astype(np.float64), chance(places)


def test_the_regression_recovers_the_probability_that_drew_the_losses():
    scores, losses, chance = drawn(20_000, lambda place: expit(-1.5 - ndtri(place) + 0.3 * ndtri(place) ** 2))
    assert np.abs(expected_losses(scores, losses)[:, 0] - chance).mean() < 0.01


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steepness", [5, 14, 20, 29])
def test_the_mean_is_kept_if_scores_nearly_separate_the_losses(steepness, seed):
    """There are few losses, nearly all at the lowest scores: full Newton steps would oscillate."""
    scores, losses, _ = drawn(400, lambda place: (1 - place) ** steepness, seed=seed)
    np.testing.assert_allclose(expected_losses(scores, losses).mean(axis=0), losses.mean(axis=0), atol=1e-10)


@pytest.mark.filterwarnings("error")
def test_expected_losses_follow_separable_and_constant_losses():
    scores, _, _ = drawn(300, lambda place: place)
    losses = np.stack([scores[:, 0] < 0.2, np.ones(300)], axis=1).astype(np.float64)
    expected = expected_losses(scores, losses)
    assert (expected[:40, 0] > 0.8).all()
    assert (expected[80:290, 0] < 0.2).all()
    assert (expected[:, 1] == 1).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_equal_scores_give_the_mean(samples):
    losses = np.zeros((samples, 2))
    losses[0] = 0.5
    expected = expected_losses(np.ones((samples, 2), dtype=np.float32), losses)
    np.testing.assert_allclose(expected, losses.mean(axis=0) * np.ones((samples, 1)), atol=1e-9)

"""Expected losses: what scores say of losses, however clearly they say it."""

import numpy as np
import pytest
from scipy.special import expit, ndtri

from edgeexit.fitting.smoothing import expected_losses


def drawn(samples: int, chance, *, seed: int = 0):
    """Draw scores [N, 2], and losses of that chance given the score's place from 0 to 1."""
    random = np.random.default_rng(seed)
    places = (np.arange(samples) + 0.5) / samples
    scores = np.stack([places, random.random(samples)], axis=1).astype(np.float32)
    losses = random.random((samples, 2)) < np.stack([chance(places), np.full(samples, 0.1)], axis=1)
    return scores, losses.astype(np.float64), chance(places)


def test_the_chance_that_losses_were_drawn_with_is_found_again():
    scores, losses, chance = drawn(20_000, lambda place: expit(-1.5 - ndtri(place) + 0.3 * ndtri(place) ** 2))
    assert np.abs(expected_losses(scores, losses)[:, 0] - chance).mean() < 0.01


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steepness", [5, 14, 20, 29])
def test_the_mean_stays_what_it_is_where_scores_all_but_tell_the_losses(steepness, seed):
    """Few losses, nearly all at the lowest scores: Newton's full steps would swing between two wrong answers."""
    scores, losses, _ = drawn(400, lambda place: (1 - place) ** steepness, seed=seed)
    np.testing.assert_allclose(expected_losses(scores, losses).mean(axis=0), losses.mean(axis=0), atol=1e-10)


@pytest.mark.filterwarnings("error")
def test_scores_that_tell_the_losses_beyond_doubt_and_losses_that_never_vary():
    scores, _, _ = drawn(300, lambda place: place)
    losses = np.stack([scores[:, 0] < 0.2, np.ones(300)], axis=1).astype(np.float64)
    expected = expected_losses(scores, losses)
    assert (expected[:40, 0] > 0.8).all()
    assert (expected[80:290, 0] < 0.2).all()
    assert (expected[:, 1] == 1).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_one_score_for_all_says_nothing_but_the_mean(samples):
    losses = np.zeros((samples, 2))
    losses[0] = 0.5
    expected = expected_losses(np.ones((samples, 2), dtype=np.float32), losses)
    np.testing.assert_allclose(expected, losses.mean(axis=0) * np.ones((samples, 1)), atol=1e-9)

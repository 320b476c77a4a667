"""Confidence bounds of a mean loss: Clopper-Pearson, and betting."""

import numpy as np
import pytest

from edgeexit.fitting import lower_bound, samples_needed, upper_bound
from edgeexit.fitting.risk import betting_upper_bound
from edgeexit.fitting.splits import choosing_and_certifying


def test_clopper_pearson_bounds_contain_the_observed_rate():
    """For 0 of 45 the upper bound is 1 - delta^(1/n)."""
    assert upper_bound(0, 45, 0.1) == pytest.approx(1 - 0.1 ** (1 / 45))
    assert lower_bound(5, 100, 0.05) < 0.05 < upper_bound(5, 100, 0.05)
    assert lower_bound(0, 10, 0.1) == 0
    assert upper_bound(10, 10, 0.1) == 1


def test_clopper_pearson_covers_the_true_rate():
    """In 200 draws, the bound is below the true rate at most as often as stated (plus 3 standard errors)."""
    random = np.random.default_rng(0)
    for truth in (0.02, 0.3):
        below = sum(upper_bound(int(random.binomial(150, truth)), 150, 0.1) < truth for _ in range(200))
        assert below <= 200 * 0.1 + 3 * (200 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("draw", ["fractions", "zero or one", "constant"])
def test_betting_covers_the_true_mean(draw):
    random = np.random.default_rng(1)
    below, bounds = 0, []
    for _ in range(200):
        if draw == "fractions":
            losses, truth = random.beta(0.5, 4.5, 150), 0.1
        elif draw == "zero or one":
            losses, truth = (random.random(150) < 0.1).astype(float), 0.1
        else:
            losses, truth = np.full(150, 0.1), 0.1
        bounds.append(betting_upper_bound(losses, 0.1))
        below += bounds[-1] < truth
    assert below <= 200 * 0.1 + 3 * (200 * 0.1 * 0.9) ** 0.5
    hoeffding = 0.1 + (np.log(10) / 300) ** 0.5
    assert np.mean(bounds) < hoeffding


def test_betting_bounds_of_extreme_losses():
    assert betting_upper_bound(np.ones(20), 0.1) == 1
    assert betting_upper_bound(np.zeros(1), 0.1) == 1
    clean = betting_upper_bound(np.zeros(200), 0.1)
    assert 1 - 0.1 ** (1 / 200) <= clean < 0.02
    needed = len(choosing_and_certifying(samples_needed(0.05, 0.1, fractions=True), seed=0)[1])
    assert betting_upper_bound(np.zeros(needed), 0.1) <= 0.05 < betting_upper_bound(np.zeros(needed - 1), 0.1)

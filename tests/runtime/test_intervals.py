"""Bootstrap intervals: value, width, and paired resampling."""

import numpy as np
import pytest

from edgeexit.runtime.intervals import percentile_interval, ratio_intervals


def columns(*values):
    return np.stack([np.asarray(column, dtype=np.float64) for column in values], axis=1)


def test_the_interval_of_a_mean_has_the_theoretical_width():
    values = np.random.default_rng(0).normal(5, 2, 4000)
    (mean,) = ratio_intervals(columns(values), columns(np.ones(4000)))
    assert mean.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / np.sqrt(4000)
    assert mean.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert mean.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_the_interval_of_a_fraction_contains_the_true_value_in_about_95_percent_of_the_draws():
    rng = np.random.default_rng(1)
    draws = [ratio_intervals(columns(rng.random(200) < 0.3), np.ones((200, 1)), seed=n)[0] for n in range(200)]
    assert 0.90 <= np.mean([found.low <= 0.3 <= found.high for found in draws]) <= 0.99


def test_numerator_and_denominator_use_the_same_resample():
    """One noisy column is always twice the other, so every resample has the same ratio."""
    slow = np.random.default_rng(2).exponential(1, 500)
    twice, against_noise = ratio_intervals(columns(slow, slow), columns(slow / 2, slow[::-1]))
    assert (twice.value, twice.low, twice.high) == pytest.approx((2, 2, 2))
    assert against_noise.high - against_noise.low > 0.05


def test_one_seed_gives_the_same_resamples_for_every_table():
    values = np.random.default_rng(3).random(3000)
    ones = np.ones((3000, 1))
    (alone,) = ratio_intervals(columns(values), ones, seed=4)
    beside = ratio_intervals(columns(1 - values, values), np.ones((3000, 2)), seed=4)[1]
    (other,) = ratio_intervals(columns(values), ones, seed=5)
    assert (alone.low, alone.high) == pytest.approx((beside.low, beside.high), rel=1e-12)
    assert alone.low != other.low


def test_resamples_whose_denominator_is_zero_are_left_out():
    counted = np.array([1.0] + 9 * [0.0])
    (fraction,) = ratio_intervals(columns(counted), columns(counted))
    assert (fraction.value, fraction.low, fraction.high) == (1, 1, 1)


def test_one_sample_has_an_interval_of_width_zero():
    (mean,) = ratio_intervals(np.array([[3.0]]), np.array([[2.0]]))
    assert (mean.low, mean.value, mean.high) == (1.5, 1.5, 1.5)
    median = percentile_interval(np.array([7.0]), 50)
    assert (median.low, median.value, median.high) == (7, 7, 7)


@pytest.mark.parametrize(("count", "percent"), [(200, 50), (201, 50), (64, 90), (1000, 90), (5, 100), (2, 50)])
def test_percentile_intervals_equal_those_of_drawn_resamples(count, percent):
    values = np.random.default_rng(count).exponential(1, count)
    found = percentile_interval(values, percent)
    drawn = np.random.default_rng(9).choice(values, (20_000, count))
    low, high = np.percentile(np.percentile(drawn, percent, axis=1), (2.5, 97.5))
    assert found.value == np.percentile(values, percent)
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.15 * (high - low))

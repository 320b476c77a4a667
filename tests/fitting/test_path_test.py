"""Betting tests of a path: their capital, their order, their probability of error, and forged losses."""

from math import comb, log, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.fitting.path_test import new_path_test, samples_to_certify

RISK, DELTA = 0.05, 0.1
FRACTIONS = (0.96, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
WEIGHTS = np.array([4, 2, *[1] * 9]) / 15


def after(losses, *, risk=RISK, discount=0):
    """Return the test of a path whose points after full depth have the losses [n] or [n, P - 1]."""
    losses = np.asarray(losses, np.float64).reshape(len(losses), -1)
    losses = np.hstack([np.zeros((len(losses), 1)), losses])
    discounts = np.full(len(losses), discount)
    return new_path_test(losses.shape[1], risk=risk, delta=DELTA).observe(losses, discounts=discounts)


def peak(losses, *, risk=RISK, discount=0, last=False):
    """Return the highest capital after each of the losses [n] (or after the last one), by its definition."""
    return max(
        sum(
            weight
            * prod(1 + f / (1 - risk) * (risk - loss) for loss in losses[:end])
            / (1 + f * risk / (1 - risk)) ** discount
            for f, weight in zip(FRACTIONS, WEIGHTS, strict=True)
        )
        for end in range(len(losses) if last else 1, len(losses) + 1)
    )


@pytest.mark.parametrize("discount", [0, 3])
@pytest.mark.parametrize("risk", [0.01, 0.05, 0.4])
def test_the_capital_is_the_average_of_products_of_bets(risk, discount):
    losses = np.random.default_rng(0).random(60) < risk / 2
    fractional = np.random.default_rng(1).random(60) * risk
    test = after(np.stack([losses, fractional], axis=1), risk=risk, discount=discount)
    for point, given_losses in ((1, losses), (2, fractional)):
        assert np.exp(test.log_peaks[point]) == pytest.approx(
            max(peak(given_losses, risk=risk, discount=discount), 1), rel=1e-9
        )


def test_the_number_of_samples_without_loss_that_certify_a_point_is_that_of_the_formula():
    needed = next(n for n in range(1, 200) if peak([0] * n) >= 1 / DELTA)
    assert 48 < needed < 74  # those that the highest bet needs with all of the capital, and with its own part of it
    assert after(np.zeros(needed - 1)).certified == 0
    assert after(np.zeros(needed)).certified == 1
    assert samples_to_certify(after(np.zeros(needed - 20)), 1) == 20
    assert samples_to_certify(after(np.zeros(needed)), 1) == 0


def test_full_depth_needs_no_samples():
    assert new_path_test(3, risk=RISK, delta=DELTA).certified == 0


def test_a_point_is_certified_only_if_all_safer_points_are():
    losses = np.zeros((300, 3))
    losses[:, 1] = 1
    assert after(losses).certified == 1
    losses[:, 1] = 0
    assert after(losses).certified == 3


def test_a_point_stays_certified_when_losses_come_later():
    before = after(np.zeros(100))
    assert before.certified == before.observe(np.ones((50, 2))).certified == 1


@given(cuts=st.lists(st.integers(0, 700), max_size=8), seed=st.integers(0, 20))
def test_any_split_into_calls_gives_the_same_state(cuts, seed):
    rng = np.random.default_rng(seed)
    losses = np.hstack([np.zeros((700, 1)), rng.random((700, 3)) < [0.01, 0.03, 0.06]])
    at_once = new_path_test(4, risk=RISK, delta=DELTA).observe(losses)
    parts = new_path_test(4, risk=RISK, delta=DELTA)
    for part in np.split(losses, sorted(cuts)):
        parts = parts.observe(part)
    assert parts.certified == at_once.certified
    assert parts.samples == at_once.samples
    np.testing.assert_allclose(parts.log_peaks, at_once.log_peaks, atol=1e-9)
    np.testing.assert_allclose(parts.log_capitals, at_once.log_capitals, atol=1e-9)
    np.testing.assert_array_equal(parts.loss_sums, at_once.loss_sums)


@pytest.mark.parametrize(("risk", "delta"), [(0.05, 0.1), (0.2, 0.3)])
def test_a_risk_just_above_the_registered_one_is_certified_at_any_time_with_at_most_delta(risk, delta):
    losses = np.random.default_rng(2).random((1500, 300)) < risk
    wrong = new_path_test(300, risk=risk, delta=delta).observe(losses).log_peaks >= -log(delta)
    allowed = next(k for k in range(300) if binomial_tail(k, 300, delta) < 1e-3)
    assert 0 < wrong.sum() < allowed


def binomial_tail(least, trials, probability):
    """Return P(at least `least` successes)."""
    return sum(comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(least, trials + 1))


def test_fractional_losses_of_a_mean_above_the_risk_are_certified_with_at_most_delta():
    rng = np.random.default_rng(3)
    losses = rng.random((800, 300)) * 2 * RISK
    assert (new_path_test(300, risk=RISK, delta=DELTA).observe(losses).log_peaks >= -log(DELTA)).mean() < DELTA


@pytest.mark.parametrize("forged", [1, 20])
def test_forged_samples_without_loss_certify_nothing_that_the_others_do_not(forged):
    honest = np.random.default_rng(4).random(200) < 0.03
    together = np.concatenate([np.zeros(forged), honest])
    alone = peak(honest)
    assert np.exp(after(together, discount=forged).log_peaks[1]) == pytest.approx(max(alone, 1), rel=1e-9)
    assert np.exp(after(together).log_peaks[1]) > alone


@given(
    samples=st.lists(st.tuples(st.sampled_from([0, 0, 0, 0.02, RISK, 0.3, 1]), st.integers(0, 3)), min_size=1),
    binary=st.booleans(),
)
def test_the_peak_is_the_highest_capital_after_any_sample_whatever_the_losses_and_discounts(samples, binary):
    losses = np.array([loss == 1 if binary else loss for loss, _ in samples], np.float64)
    discounts = np.cumsum([growth for _, growth in samples])
    test = new_path_test(2, risk=RISK, delta=DELTA).observe(np.stack([0 * losses, losses], 1), discounts=discounts)
    capitals = [peak(losses[:end], discount=discounts[end - 1], last=True) for end in range(1, len(losses) + 1)]
    assert np.exp(test.log_peaks[1]) == pytest.approx(max(*capitals, 1), rel=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.025, 0.035])
def test_the_expected_number_of_samples_to_certify_a_point_is_that_of_simulation(rate):
    rng = np.random.default_rng(5)
    start = after(np.diff(np.floor(np.arange(401) * rate)))
    expected = samples_to_certify(start, 1)
    took = []
    for _ in range(60):
        losses = np.zeros((10_000, 2))
        losses[:, 1] = rng.random(10_000) < rate
        test = start
        for end in range(0, 10_000, 10):
            test = test.observe(losses[end : end + 10])
            if test.certified:
                took.append(end + 10)
                break
    assert len(took) == 60
    assert 0.5 * np.median(took) - 10 <= expected <= 2 * np.median(took) + 10


def test_a_mean_loss_above_the_risk_will_not_be_certified():
    assert samples_to_certify(after(np.arange(100) % 10 == 0), 1) is None
    assert samples_to_certify(new_path_test(2, risk=RISK, delta=DELTA), 1) < 100  # nothing is known of the losses


def test_the_discount_can_grow_with_every_sample_and_does_not_depend_on_the_split():
    losses = np.random.default_rng(7).random((300, 1)) < 0.02
    losses = np.hstack([np.zeros((300, 1)), losses])
    discounts = np.arange(300) // 20
    at_once = new_path_test(2, risk=RISK, delta=DELTA).observe(losses, discounts=discounts)
    parts = new_path_test(2, risk=RISK, delta=DELTA)
    for places in np.split(np.arange(300), [10, 11, 100, 290]):
        parts = parts.observe(losses[places], discounts=discounts[places])
    np.testing.assert_allclose(parts.log_peaks, at_once.log_peaks, atol=1e-9)
    assert parts.discount == at_once.discount == 14
    by_definition = max(
        peak(losses[:end, 1], discount=discounts[end - 1], last=True) for end in range(1, len(losses) + 1)
    )
    assert np.exp(at_once.log_peaks[1]) == pytest.approx(by_definition, rel=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2])
def test_the_upper_bound_is_above_the_mean_loss_at_any_time_except_with_probability_delta(rate):
    rng = np.random.default_rng(8)
    runs, above, last = 100, 0, []
    for _ in range(runs):
        test, bounds = new_path_test(2, risk=RISK, delta=DELTA), []
        for _ in range(10):
            losses = np.zeros((60, 2))
            losses[:, 1] = rng.random(60) < rate
            test = test.observe(losses)
            bounds.append(test.upper_bound(1))
        above += min(bounds) < rate
        last.append(bounds[-1])
    assert above <= runs * DELTA
    assert np.mean(last) < rate + 0.07


def test_the_upper_bound_of_losses_that_certify_a_point_is_the_risk():
    needed = next(n for n in range(1, 200) if peak([0] * n) >= 1 / DELTA)
    assert after(np.zeros(needed)).upper_bound(1) <= RISK < after(np.zeros(needed - 1)).upper_bound(1)
    assert new_path_test(2, risk=RISK, delta=DELTA).upper_bound(1) == 1

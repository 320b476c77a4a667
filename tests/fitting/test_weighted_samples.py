"""Samples that are not drawn with equal probability: with their weights, path tests and alarms keep their promises."""

from math import prod

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.fitting.change_monitor import new_monitor
from edgeexit.fitting.path_test import PathTest, new_path_test, samples_to_certify

RISK, DELTA, ALPHA = 0.05, 0.1, 0.1
FACTOR, UNSURE = 4, 0.2
"""A fifth of all samples is unsure and drawn four times as often as the others."""


def drawn(rng, shape, *, unsure_rate, sure_rate):
    """Return losses and weights of drawn samples, for the rates of losses among unsure samples and among the others."""
    unsure = rng.random(shape) < FACTOR * UNSURE / (FACTOR * UNSURE + 1 - UNSURE)
    losses = rng.random(shape) < np.where(unsure, unsure_rate, sure_rate)
    return losses.astype(np.float64), np.where(unsure, 1 / FACTOR, 1.0)


def path_of(losses, weights=None):
    """Return the test of a path of two points, of which the second one has these losses [n]."""
    return new_path_test(2, risk=RISK, delta=DELTA).observe(np.stack([0 * losses, losses], axis=1), weights=weights)


def certified(rng, samples, rates, *, weighted=True, runs=200):
    """Return in which part of the runs the second point is certified."""
    found = 0
    for _ in range(runs):
        losses, weights = drawn(rng, samples, **rates)
        found += path_of(losses, weights if weighted else None).certified
    return found / runs


def test_the_capital_is_the_average_of_products_of_weighted_bets():
    losses, weights = drawn(np.random.default_rng(0), 60, unsure_rate=0.2, sure_rate=0.02)
    fractions, begun = (0.96, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05), [4 / 15, 2 / 15, *[1 / 15] * 9]
    capitals = [
        sum(
            part * prod(1 + f / (1 - RISK) * w * (RISK - x) for x, w in zip(losses[:end], weights[:end], strict=True))
            for f, part in zip(fractions, begun, strict=True)
        )
        for end in range(1, 61)
    ]
    assert np.exp(path_of(losses, weights).log_peaks[1]) == pytest.approx(max(*capitals, 1), rel=1e-9)


def test_weights_of_one_are_those_of_samples_drawn_with_equal_probability():
    losses = (np.random.default_rng(1).random(700) < 0.03).astype(np.float64)
    given_ones, none = path_of(losses, np.ones(700)), path_of(losses)
    np.testing.assert_allclose(given_ones.log_peaks, none.log_peaks, atol=1e-9)
    assert given_ones.weight == none.weight == 700
    assert given_ones.upper_bound(1) == none.upper_bound(1)
    positions = np.arange(700)
    monitors = [new_monitor(RISK, alpha=ALPHA).observe(positions, losses, weights=w) for w in (np.ones(700), None)]
    assert monitors[0] == monitors[1]


@pytest.mark.parametrize(
    "rates",
    [{"unsure_rate": RISK / UNSURE, "sure_rate": 0.0}, {"unsure_rate": 0.0, "sure_rate": RISK / (1 - UNSURE)}],
    ids=["losses of unsure samples", "losses of the others"],
)
def test_a_risk_that_is_too_high_is_certified_with_at_most_delta_wherever_the_losses_are(rates):
    assert certified(np.random.default_rng(2), 1500, rates) <= DELTA


def test_without_weights_losses_of_samples_that_are_drawn_rarely_would_be_underrated():
    rates = {"unsure_rate": 0.0, "sure_rate": RISK / (1 - UNSURE)}
    assert certified(np.random.default_rng(2), 1500, rates, weighted=False) > 0.5


def test_unsure_samples_that_have_the_losses_certify_a_point_with_half_of_the_audits():
    rng, uniform, active = np.random.default_rng(3), [], []
    for _ in range(20):
        losses, weights = drawn(rng, 20_000, unsure_rate=0.75 * RISK / UNSURE, sure_rate=0.0)
        active.append(_needed(losses, weights))
        uniform.append(_needed((rng.random(20_000) < 0.75 * RISK).astype(np.float64), np.ones(20_000)))
    assert np.median(active) < np.median(uniform) / 2


def _needed(losses, weights, *, block=50):
    test = new_path_test(2, risk=RISK, delta=DELTA)
    for start in range(0, len(losses), block):
        part = slice(start, start + block)
        test = test.observe(np.stack([0 * losses[part], losses[part]], axis=1), weights=weights[part])
        if test.certified:
            return start + block
    return np.inf


@given(cuts=st.lists(st.integers(0, 600), max_size=6), seed=st.integers(0, 20))
def test_any_split_into_calls_gives_the_same_state(cuts, seed):
    losses, weights = drawn(np.random.default_rng(seed), 600, unsure_rate=0.3, sure_rate=0.05)
    whole, parts = path_of(losses, weights), new_path_test(2, risk=RISK, delta=DELTA)
    positions = np.arange(600)
    alarm = new_monitor(RISK, alpha=ALPHA).observe(positions, losses, weights=weights).alarm
    monitor = new_monitor(RISK, alpha=ALPHA)
    for places in np.split(positions, sorted(cuts)):
        parts = parts.observe(np.stack([0 * losses[places], losses[places]], axis=1), weights=weights[places])
        monitor = monitor.observe(positions[places], losses[places], weights=weights[places])
    np.testing.assert_allclose(parts.log_capitals, whole.log_capitals, atol=1e-9)
    np.testing.assert_allclose(parts.log_peaks, whole.log_peaks, atol=1e-9)
    np.testing.assert_allclose((parts.weight, *parts.loss_sums), (whole.weight, *whole.loss_sums))
    assert (monitor.alarm is None) == (alarm is None)
    assert alarm is None or monitor.alarm.alarm_position == alarm.alarm_position


def test_the_upper_bound_is_above_the_risk_at_any_time_except_with_probability_delta():
    rng, above, last = np.random.default_rng(4), 0, []
    for _ in range(100):
        test, bounds = new_path_test(2, risk=RISK, delta=DELTA), []
        for _ in range(10):
            losses, weights = drawn(rng, 60, unsure_rate=0.1, sure_rate=0.0)
            test = test.observe(np.stack([0 * losses, losses], axis=1), weights=weights)
            bounds.append(test.upper_bound(1))
        above += min(bounds) < 0.1 * UNSURE
        last.append(bounds[-1])
    assert above <= 100 * DELTA
    assert np.mean(last) < 0.1 * UNSURE + 0.07


def test_the_samples_that_certify_a_point_are_those_with_the_same_mean_weight():
    test = path_of(np.zeros(20), np.full(20, 0.25))
    expected = samples_to_certify(test, 1)
    assert path_of(np.zeros(20 + expected), np.full(20 + expected, 0.25)).certified == 1
    assert path_of(np.zeros(18 + expected // 2), np.full(18 + expected // 2, 0.25)).certified == 0


def test_a_state_that_was_stored_before_there_were_weights_has_none():
    fields = {"risk": RISK, "delta": DELTA, "samples": 7}
    arrays = {name: [] for name in ("log_capitals", "log_peaks", "loss_sums")}
    encoded = msgspec.msgpack.encode({**fields, **arrays})
    decoded = msgspec.msgpack.decode(encoded, type=PathTest, dec_hook=lambda _, value: np.array(value))
    assert decoded.weight == 7


def test_a_false_alarm_has_at_most_the_probability_alpha_wherever_the_losses_are():
    rng, runs = np.random.default_rng(5), 150
    for rates in ({"unsure_rate": RISK / UNSURE, "sure_rate": 0.0}, {"unsure_rate": 0.0, "sure_rate": RISK / 0.8}):
        alarms = 0
        for _ in range(runs):
            losses, weights = drawn(rng, 5000, **rates)
            alarms += new_monitor(RISK, alpha=ALPHA).observe(np.arange(5000), losses, weights=weights).alarm is not None
        assert alarms <= runs * ALPHA


def test_an_alarm_about_losses_of_unsure_samples_comes_earlier_than_from_uniform_audits():
    rng, delays = np.random.default_rng(6), {"uniform": [], "active": []}
    for _ in range(30):
        losses, weights = drawn(rng, 6000, unsure_rate=1.5 * RISK / UNSURE, sure_rate=0.0)
        uniform = (rng.random(6000) < 1.5 * RISK).astype(np.float64)
        for name, samples, given_weights in (("uniform", uniform, None), ("active", losses, weights)):
            alarm = new_monitor(RISK, alpha=ALPHA).observe(np.arange(6000), samples, weights=given_weights).alarm
            delays[name].append(np.inf if alarm is None else alarm.alarm_position)
    assert np.median(delays["active"]) < 0.7 * np.median(delays["uniform"])


def test_the_highest_possible_gain_of_a_forged_sample_is_that_of_weight_1():
    losses = (np.random.default_rng(7).random(200) < 0.03).astype(np.float64)
    honest = path_of(losses)
    together = np.concatenate([np.zeros(5), losses])
    weights = np.concatenate([[1, 0.5, 0.25, 0.25, 1], np.ones(200)])
    test = new_path_test(2, risk=RISK, delta=DELTA).observe(
        np.stack([0 * together, together], axis=1), weights=weights, discounts=np.full(205, 5)
    )
    assert 0 < test.log_peaks[1] <= honest.log_peaks[1] + 1e-9

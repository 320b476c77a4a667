"""The alarm of a policy in force: rare false alarms for ever, early alarms after a change, any split into calls."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.fitting.change_monitor import detection_bound, new_monitor

RISK, ALPHA = 0.05, 0.01
FACTORS = (1.5, 2.0, 3.0, 5.0)


def run(losses, *, risk=RISK, alpha=ALPHA, first=1):
    losses = np.asarray(losses, np.float64)
    return new_monitor(risk, alpha=alpha).observe(np.arange(first, first + len(losses)), losses)


def weight(number):
    """Return the weight of sample `number`, from 0 on."""
    return log(100) / log(number + 100) - log(100) / log(number + 101)


def capital(losses, risk, factor):
    """Return the capital of a bet on these losses that begins with 1."""
    alternative = min(factor * risk, (1 + risk) / 2)
    bet = (alternative - risk) / (risk * (1 - risk))
    return float(np.prod(1 + bet * (np.asarray(losses, np.float64) - risk)))


def statistic(losses, risk):
    """Return S by its definition: the weighted sum of the capitals of bets that begin at every sample."""
    return np.mean(
        [
            sum(weight(start) * capital(losses[start:], risk, factor) for start in range(len(losses)))
            for factor in FACTORS
        ]
    )


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.3])
def test_the_statistic_is_the_weighted_sum_over_all_starts(risk):
    rng = np.random.default_rng(1)
    losses = np.concatenate([rng.random(80) < risk, rng.random(40) * min(2 * risk, 0.9)])
    monitor = run(losses, risk=risk, alpha=1e-9)
    assert monitor.alarm is None
    assert np.mean(np.exp(monitor.log_statistics)) == pytest.approx(statistic(losses, risk), rel=1e-9)


def test_the_alarm_comes_with_the_first_sample_at_which_the_statistic_reaches_1_over_alpha():
    losses = np.concatenate([np.zeros(60), np.random.default_rng(0).random(60) < 0.5])
    alarm = run(losses).alarm
    assert statistic(losses[: alarm.alarm_position - 1], RISK) < 1 / ALPHA
    assert statistic(losses[: alarm.alarm_position], RISK) == pytest.approx(alarm.e_value)
    assert alarm.e_value >= 1 / ALPHA


def test_the_estimated_change_is_the_start_of_the_strongest_bet():
    losses = np.concatenate([np.zeros(60), np.random.default_rng(0).random(60) < 0.5])
    alarm = run(losses).alarm
    seen = losses[: alarm.alarm_position]
    best = max(capital(seen[start:], RISK, factor) for start in range(len(seen)) for factor in FACTORS)
    assert max(capital(seen[alarm.change_position - 1 :], RISK, factor) for factor in FACTORS) == pytest.approx(best)


def test_the_weights_of_all_samples_add_up_to_at_most_1():
    assert sum(weight(number) for number in range(100_000)) == pytest.approx(1 - log(100) / log(100_100))


def test_a_false_alarm_has_at_most_the_probability_alpha_however_long_the_policy_is_in_force():
    rng = np.random.default_rng(3)
    alpha, runs = 0.1, 200
    alarms = sum(run(rng.random(10_000) < RISK, alpha=alpha).alarm is not None for _ in range(runs))
    assert 0 < alarms < runs * alpha


def test_an_alarm_is_final():
    after_alarm = run(np.ones(100))
    assert after_alarm.observe(np.arange(200, 300), np.zeros(100)) is after_alarm


@given(cuts=st.lists(st.integers(0, 3000), max_size=8), seed=st.integers(0, 50))
def test_any_split_into_calls_gives_the_same_alarm(cuts, seed):
    rng = np.random.default_rng(seed)
    losses = np.concatenate([rng.random(1000) < 0.03, rng.random(2000) < 0.12])
    positions = np.arange(10, 10 + 5 * len(losses), 5)
    at_once = new_monitor(RISK, alpha=ALPHA).observe(positions, losses)
    in_parts = new_monitor(RISK, alpha=ALPHA)
    for places in np.split(np.arange(len(losses)), sorted(cuts)):
        in_parts = in_parts.observe(positions[places], losses[places])
    assert at_once.alarm is not None
    assert in_parts.alarm is not None
    assert at_once.alarm.alarm_position == in_parts.alarm.alarm_position
    assert at_once.alarm.change_position == in_parts.alarm.change_position
    assert at_once.samples == in_parts.samples


@pytest.mark.parametrize("quiet", [0, 1000])
@pytest.mark.parametrize("risk", [0.08, 0.15, 0.6])
def test_the_alarm_comes_within_the_bound_that_is_given_for_it(quiet, risk):
    rng = np.random.default_rng(6)
    delays, bounds = [], []
    for _ in range(100):
        before = run(rng.random(quiet) < 0.03)
        bounds.append(detection_bound(before, risk, delta=0.1))
        alarm = before.observe(np.arange(quiet + 1, quiet + 20_001), rng.random(20_000) < risk).alarm
        delays.append(alarm.alarm_position - quiet)
    late = np.mean(np.array(delays) > bounds)
    assert late <= 0.1
    assert max(bounds) < 3 * np.quantile(delays, 0.9)  # the bound is of use


def test_a_risk_that_is_not_exceeded_has_no_bound():
    assert detection_bound(new_monitor(RISK, alpha=ALPHA), RISK, delta=0.1, limit=10_000) is None


@pytest.mark.parametrize("risk", [0.001, 0.05, 0.4, 0.99])
def test_losses_of_every_sample_raise_an_alarm_soon(risk):
    assert run(np.ones(2000), risk=risk).alarm is not None

"""The drift detector: rare false alarms, early alarms after a change, and the same alarm for any split into batches."""

from itertools import pairwise

import numpy as np
import pytest
from edgeexit_calibration.recalibrate.drift import alternatives, new_detector, observe
from hypothesis import given
from hypothesis import strategies as st

RISK, ALPHA = 0.05, 0.001


def run(losses, *, risk=RISK, alpha=ALPHA, first=1):
    return observe(new_detector(risk, alpha=alpha), np.arange(first, first + len(losses)), np.asarray(losses, np.bool_))


def reference(losses, *, risk, alpha):
    """Return (position of the alarm, statistic) from the recursion of the paper, or None without an alarm."""
    statistics = [1.0] * len(alternatives(risk))
    for position, loss in enumerate(losses, start=1):
        for index, q in enumerate(alternatives(risk)):
            ratio = q / risk if loss else (1 - q) / (1 - risk)
            statistics[index] = max(1.0, statistics[index]) * ratio
        if np.mean(statistics) >= 1 / alpha:
            return position, np.mean(statistics)
    return None


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.3])
def test_the_detector_computes_the_recursion_of_the_paper(risk):
    rng = np.random.default_rng(3)
    losses = np.concatenate([rng.random(300) < risk, rng.random(3000) < min(3 * risk, 0.9)])
    position, statistic = reference(losses, risk=risk, alpha=ALPHA)
    alarm = run(losses, risk=risk).alarm
    assert alarm.alarm_position == position
    assert alarm.e_value == pytest.approx(statistic)


def test_false_alarms_are_at_least_1_over_alpha_samples_apart_on_average():
    alpha, limit = 0.01, 2000
    rng = np.random.default_rng(0)
    times = []
    for _ in range(300):
        alarm = run(rng.random(limit) < RISK, alpha=alpha).alarm
        times.append(limit if alarm is None else alarm.alarm_position)
    assert np.mean(times) > 1 / alpha  # the times are limited to 2000, so the true mean is larger


def test_there_is_no_alarm_while_the_losses_stay_well_below_the_risk():
    rng = np.random.default_rng(1)
    assert all(run(rng.random(20_000) < 0.6 * RISK).alarm is None for _ in range(50))


def test_a_doubled_risk_raises_an_alarm_soon_and_the_change_is_estimated_closely():
    rng = np.random.default_rng(2)
    delays, errors = [], []
    for _ in range(200):
        losses = np.concatenate([rng.random(1000) < 0.4 * RISK, rng.random(8000) < 2 * RISK])
        alarm = run(losses).alarm
        assert alarm is not None
        delays.append(alarm.alarm_position - 1000)
        errors.append(abs(alarm.change_position - 1000))
    assert np.median(delays) < 600
    assert np.median(errors) < 150


def test_a_large_change_raises_an_alarm_within_tens_of_samples():
    losses = np.concatenate([np.zeros(500, bool), np.random.default_rng(0).random(500) < 0.6])
    alarm = run(losses).alarm
    assert alarm.alarm_position - 500 < 40
    assert 480 <= alarm.change_position <= 505


@given(cuts=st.lists(st.integers(0, 3000), max_size=8), seed=st.integers(0, 50))
def test_any_split_into_batches_gives_the_same_alarm(cuts, seed):
    rng = np.random.default_rng(seed)
    losses = np.concatenate([rng.random(1000) < 0.03, rng.random(2000) < 0.12])
    positions = np.arange(10, 10 + 5 * len(losses), 5)
    at_once = observe(new_detector(RISK, alpha=ALPHA), positions, losses)
    bounds = [0, *sorted(cuts), len(losses)]
    in_batches = new_detector(RISK, alpha=ALPHA)
    for start, end in pairwise(bounds):
        in_batches = observe(in_batches, positions[start:end], losses[start:end])
    assert (at_once.alarm is None) == (in_batches.alarm is None)
    if at_once.alarm is not None:
        assert at_once.alarm.alarm_position == in_batches.alarm.alarm_position
        assert at_once.alarm.change_position == in_batches.alarm.change_position
        assert at_once.samples == in_batches.samples


@pytest.mark.parametrize("risk", [0.001, 0.05, 0.4, 0.99])
def test_every_alternative_lies_between_the_risk_and_1(risk):
    assert all(risk < q < 1 for q in alternatives(risk))

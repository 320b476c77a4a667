"""The alarm on a stream of losses: rare while the risk holds, soon when it does not, and the same however it is fed."""

from itertools import pairwise

import numpy as np
import pytest
from edgeexit_calibration.drift import alternatives, observe, watch
from hypothesis import given
from hypothesis import strategies as st

RISK, ALPHA = 0.05, 0.001


def run(losses, *, risk=RISK, alpha=ALPHA, first=1):
    return observe(watch(risk, alpha=alpha), np.arange(first, first + len(losses)), np.asarray(losses, np.bool_))


def reference(losses, *, risk, alpha):
    """The recursion of the paper as it stands: (position of the alarm, statistic) or None."""
    statistics = [1.0] * len(alternatives(risk))
    for position, loss in enumerate(losses, start=1):
        for index, q in enumerate(alternatives(risk)):
            ratio = q / risk if loss else (1 - q) / (1 - risk)
            statistics[index] = max(1.0, statistics[index]) * ratio
        if np.mean(statistics) >= 1 / alpha:
            return position, np.mean(statistics)
    return None


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.3])
def test_it_is_the_recursion_of_the_paper(risk):
    rng = np.random.default_rng(3)
    losses = np.concatenate([rng.random(300) < risk, rng.random(3000) < min(3 * risk, 0.9)])
    position, statistic = reference(losses, risk=risk, alpha=ALPHA)
    alarm = run(losses, risk=risk).alarm
    assert alarm.at == position
    assert alarm.evidence == pytest.approx(statistic)


def test_false_alarms_are_at_least_1_over_alpha_samples_apart_on_average():
    alpha, limit = 0.01, 2000
    rng = np.random.default_rng(0)
    times = []
    for _ in range(300):
        watched = run(rng.random(limit) < RISK, alpha=alpha)
        times.append(limit if watched.alarm is None else watched.alarm.at)
    assert np.mean(times) > 1 / alpha  # cut at 2000, so the true mean is larger still


def test_no_alarm_for_long_where_the_risk_is_well_kept():
    rng = np.random.default_rng(1)
    assert all(run(rng.random(20_000) < 0.6 * RISK).alarm is None for _ in range(50))


def test_a_doubled_risk_is_found_soon_and_put_near_the_change():
    rng = np.random.default_rng(2)
    delays, misplaced = [], []
    for _ in range(200):
        losses = np.concatenate([rng.random(1000) < 0.4 * RISK, rng.random(8000) < 2 * RISK])
        alarm = run(losses).alarm
        assert alarm is not None
        delays.append(alarm.at - 1000)
        misplaced.append(abs(alarm.since - 1000))
    assert np.median(delays) < 600
    assert np.median(misplaced) < 150


def test_a_great_change_is_found_within_tens_of_samples():
    losses = np.concatenate([np.zeros(500, bool), np.random.default_rng(0).random(500) < 0.6])
    alarm = run(losses).alarm
    assert alarm.at - 500 < 40
    assert 480 <= alarm.since <= 505


@given(cuts=st.lists(st.integers(0, 3000), max_size=8), seed=st.integers(0, 50))
def test_any_split_into_batches_gives_the_same_alarm(cuts, seed):
    rng = np.random.default_rng(seed)
    losses = np.concatenate([rng.random(1000) < 0.03, rng.random(2000) < 0.12])
    positions = np.arange(10, 10 + 5 * len(losses), 5)
    whole = observe(watch(RISK, alpha=ALPHA), positions, losses)
    bounds = [0, *sorted(cuts), len(losses)]
    pieces = watch(RISK, alpha=ALPHA)
    for start, end in pairwise(bounds):
        pieces = observe(pieces, positions[start:end], losses[start:end])
    assert (whole.alarm is None) == (pieces.alarm is None)
    if whole.alarm is not None:
        assert (whole.alarm.at, whole.alarm.since) == (pieces.alarm.at, pieces.alarm.since)
        assert whole.samples == pieces.samples


@pytest.mark.parametrize("risk", [0.001, 0.05, 0.4, 0.99])
def test_every_alternative_lies_between_the_risk_and_1(risk):
    assert all(risk < q < 1 for q in alternatives(risk))

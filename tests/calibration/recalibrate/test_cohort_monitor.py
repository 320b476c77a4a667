"""The alarm of a cohort, and devices that forge audits."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.recalibrate.audits import Audits
from edgeexit_calibration.recalibrate.cohort_monitor import new_cohort_monitor

from edgeexit.fitting.change_monitor import new_monitor

RISK, ALPHA = 0.05, 0.01


def observed(devices, losses, *, tolerated):
    """Return the state after audits of `devices` [n] with `losses` [n]."""
    audits = Audits(np.arange(1, len(devices) + 1), np.asarray(devices), np.zeros((len(devices), 2, 4), np.float32))
    start = new_cohort_monitor(RISK, alpha=ALPHA, tolerated_devices=tolerated)
    return start.observe(audits, np.asarray(losses, bool))


def test_without_tolerated_devices_the_alarm_is_that_of_one_monitor():
    random = np.random.default_rng(0)
    devices, losses = random.integers(0, 10, 400), random.random(400) < 0.2
    single = new_monitor(RISK, alpha=ALPHA).observe(np.arange(1, 401), losses)
    assert single.alarm is not None
    assert observed(devices, losses, tolerated=0).alarm == single.alarm


@pytest.mark.parametrize("tolerated", [1, 2, 3])
def test_as_many_devices_as_are_tolerated_raise_no_alarm_and_one_more_does(tolerated):
    devices = np.arange(4000) % 20
    assert observed(devices, devices < tolerated, tolerated=tolerated).alarm is None
    assert observed(devices, devices < tolerated + 2, tolerated=tolerated).alarm is not None


def test_the_alarm_is_the_last_one_of_the_monitors_and_the_slowest_monitor_waits_for_its_own():
    random = np.random.default_rng(1)
    devices, losses = np.arange(400) % 20, random.random(400) < 0.2
    state = observed(devices, losses, tolerated=1)
    assert state.alarm.alarm_position == max(monitor.alarm.alarm_position for monitor in state.monitors)
    devices = np.arange(4000) % 20
    waiting = observed(devices, (devices == 0) | (random.random(4000) < 0.04), tolerated=1)
    assert waiting.slowest.alarm is None
    assert any(monitor.alarm is not None for monitor in waiting.monitors)


@pytest.mark.parametrize("split", [1, 7, 100])
def test_any_split_into_calls_gives_the_same_state(split):
    random = np.random.default_rng(2)
    devices, losses = random.integers(0, 5, 2000) ** 2, random.random(2000) < 0.06
    audits = Audits(np.arange(1, 2001), devices, np.zeros((2000, 2, 4), np.float32))
    state = new_cohort_monitor(RISK, alpha=ALPHA, tolerated_devices=1)
    for start in range(0, 100, split):
        end = min(start + split, 100)
        state = state.observe(audits.part(start, end), losses[start:end])
    state = state.observe(audits.part(100), losses[100:])
    at_once = observed(devices, losses, tolerated=1)
    assert state.alarm == at_once.alarm
    assert msgspec.structs.replace(state, monitors=()) == msgspec.structs.replace(at_once, monitors=())

"""The test of each device against its cohort: who is found, how soon, and how seldom wrongly."""

import numpy as np
import pytest
from edgeexit_calibration.recalibrate import device_comparison
from edgeexit_calibration.recalibrate.device_comparison import ALPHA, DeviceComparison

RISK = 0.05


def losses_of(devices, risks, random):
    return (random.random(len(devices)) < np.asarray(risks)[devices]).astype(np.float64)


def compared(count, risks, *, seed=0, state=None):
    """Return the comparison after `count` audits of devices with these risks."""
    random = np.random.default_rng(seed)
    devices = random.integers(0, len(risks), count)
    return (state or DeviceComparison()).observe(devices, losses_of(devices, risks, random), risk=RISK)


def test_a_device_with_many_losses_is_found_with_its_figures():
    [far] = compared(6000, [0.5, *[0.03] * 39]).far
    assert far.device == 0
    assert far.loss == pytest.approx(0.5, abs=0.1)
    assert far.others == pytest.approx(0.03, abs=0.01)
    assert 100 < far.audits < 200


def test_a_device_that_becomes_bad_late_is_found_as_soon():
    quiet = compared(40_000, [0.03] * 40)
    assert quiet.far == ()
    [far] = compared(6000, [0.5, *[0.03] * 39], seed=1, state=quiet).far
    assert (far.device, far.loss) == (0, pytest.approx(0.5, abs=0.1))
    assert far.audits < 250


def test_at_the_border_a_device_is_found_more_seldom_than_stated():
    """Every device but one is at most RISK above the mean of the others, and one is exactly there."""
    found = sum(bool(compared(4000, [0.08, *[0.03] * 9], seed=seed).far) for seed in range(100))
    assert found <= 100 * ALPHA


def in_messages(count, size, risks, *, seed=0, state=None):
    """Return the comparison after `count` messages of `size` audits, of devices with these risks in turn."""
    random = np.random.default_rng(seed)
    devices = np.repeat(np.arange(count) % len(risks), size)
    return (state or DeviceComparison()).observe(devices, losses_of(devices, risks, random), risk=RISK)


def test_devices_that_send_many_audits_at_once_are_compared_too():
    [far] = in_messages(400, 12, [0.5, *[0.03] * 39]).far
    assert (far.device, far.loss) == (0, pytest.approx(0.5, abs=0.15))
    found = sum(bool(in_messages(400, 12, [0.08, *[0.03] * 9], seed=seed).far) for seed in range(50))
    assert found <= 50 * ALPHA


def test_the_first_devices_that_see_a_change_are_not_found_for_that():
    before = in_messages(400, 100, [0.02] * 40)
    assert in_messages(80, 100, [0.6] * 40, seed=1, state=before).far == ()


def test_a_change_that_concerns_all_devices_finds_none():
    before = compared(5000, [0.02] * 30)
    assert compared(5000, [0.6] * 30, seed=1, state=before).far == ()


def test_the_state_does_not_depend_on_how_audits_are_split():
    random = np.random.default_rng(3)
    devices = random.integers(0, 5, 500)
    losses = losses_of(devices, [0.3, 0.1, 0.1, 0.1, 0.1], random)
    whole = DeviceComparison().observe(devices, losses, risk=RISK)
    parts = DeviceComparison()
    for start in range(0, 500, 7):
        parts = parts.observe(devices[start : start + 7], losses[start : start + 7], risk=RISK)
    assert parts == whole


def test_audits_under_another_policy_are_not_compared_with_those_before():
    state = compared(3000, [0.0, *[0.9] * 9]).under_another_policy()
    bold = compared(3000, [0.9] * 10, seed=1, state=state)
    assert bold.far == ()
    assert bold.seen == 3000


def test_of_too_many_tests_the_one_with_the_least_capital_ends(monkeypatch):
    monkeypatch.setattr(device_comparison, "_MAX_DEVICES", 20)
    state = compared(60_000, [0.5, *[0.03] * 199])
    assert len(state.tests) == 20
    assert [far.device for far in state.far] == [0]
    assert state.begun > 100


def test_a_device_alone_is_compared_with_nobody():
    assert compared(2000, [0.9]).far == ()

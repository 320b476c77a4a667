"""Which audits of a cohort are used."""

import numpy as np
import pytest
from edgeexit_calibration.recalibrate.fair_share import FairShare


def test_of_devices_that_send_alike_all_audits_are_used():
    devices = np.random.default_rng(0).integers(0, 40, 10_000)
    state, selected = FairShare().select(devices)
    assert selected.all()
    assert sum(state.used.values()) == 10_000


@pytest.mark.parametrize(("devices", "share"), [(40, 0.05), (20, 0.1), (3, 2 / 3)])
def test_a_device_that_sends_most_of_the_audits_has_its_share_of_the_used_ones(devices, share):
    random = np.random.default_rng(1)
    sent = np.where(random.random(50_000) < 0.9, 0, random.integers(1, devices, 50_000))
    state, selected = FairShare().select(sent)
    assert selected[sent > 0].all()
    assert state.used[0] / sum(state.used.values()) == pytest.approx(share, rel=0.02)


def test_a_device_alone_is_used():
    assert FairShare().select(np.zeros(1000, np.int64))[1].all()


@pytest.mark.parametrize("split", [1, 7, 300])
def test_any_split_into_calls_gives_the_same_selection(split):
    random = np.random.default_rng(2)
    devices = random.integers(0, 5, 1000) ** 2 * (random.random(1000) < 0.3)
    at_once, expected = FairShare().select(devices)
    state, found = FairShare(), []
    for start in range(0, len(devices), split):
        state, selected = state.select(devices[start : start + split])
        found += selected.tolist()
    assert found == expected.tolist()
    assert not expected.all()
    assert state == at_once

"""Devices that are set aside: the guarantee is that of the others, and nothing of theirs counts."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.recalibrate.guarantee import advance, begin
from edgeexit_calibration.recalibrate.tracked_path import path_delta

from tests.calibration.recalibrate.test_guarantee import EASY, FULL_DEPTH, RULES, audits_from, known_risk, run

DIFFERS = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]])
WITHOUT = msgspec.structs.replace(RULES, set_aside=(0,))


def history_of(audits):
    return lambda first, last, limit: audits.part(max(first - 1, last - limit, 0), last)


def test_audits_of_a_device_that_is_set_aside_change_nothing():
    audits = audits_from((EASY, 3000), forged=DIFFERS)
    others = audits.where(audits.devices != 0)
    state, changes = run(audits, rules=WITHOUT)
    assert state.audits == len(others.ids)
    assert state.cohort_monitor.monitors[0].samples == len(others.ids)
    assert 0 not in state.shares.used
    assert all(0 not in path.devices.counts for path in state.paths)
    alone = known_risk.audits_of(others.readouts, others.devices, after=0)
    expected = [change.policy for _, change in run(alone, rules=WITHOUT)[1]]
    assert [change.policy for _, change in changes] == expected != []


def test_a_far_device_is_found_and_its_absence_begins_the_tests_anew_but_neither_the_monitor_nor_an_epoch():
    audits = audits_from((EASY, 6000), forged=DIFFERS)
    lenient = msgspec.structs.replace(RULES, risk=0.12)
    state, _ = run(audits, rules=lenient)
    assert [far.device for far in state.comparison.far] == [0]
    rules = msgspec.structs.replace(lenient, set_aside=(0,))
    anew, change = advance(state, audits, history_of(audits), rules)
    assert change is None
    assert (anew.policy, anew.epoch, anew.first, anew.last) == (state.policy, state.epoch, state.first, state.last)
    assert anew.cohort_monitor == state.cohort_monitor
    assert anew.comparison.far == ()
    for number, path in enumerate(anew.paths, state.paths_chosen):
        assert path.test.samples == 0
        assert path.test.delta == path_delta(number, delta=rules.delta, alpha=rules.alpha)
    again, _ = advance(anew, audits, history_of(audits), rules)
    assert again.paths == anew.paths


def test_without_the_far_device_the_policy_becomes_bolder_than_with_it():
    audits = audits_from((EASY, 8000), forged=DIFFERS)
    with_it, _ = run(audits)
    without, _ = run(audits, rules=WITHOUT)
    costs = [known_risk.cost(state.policy.thresholds) for state in (without, with_it)]
    assert costs[0] < costs[1] - 0.05
    assert EASY.risk(without.policy.thresholds) <= RULES.risk


def test_at_full_depth_no_device_is_compared():
    state, _ = run(audits_from((EASY, 60), forged=DIFFERS))
    assert state.policy == FULL_DEPTH
    assert state.comparison.seen == 0


@pytest.mark.parametrize("set_aside", [(), (0,)])
def test_a_block_without_counting_audits_is_read_all_the_same(set_aside):
    audits = known_risk.audits_of(EASY.draw(300, np.random.default_rng(0)), np.zeros(300, np.int64), after=0)
    rules = msgspec.structs.replace(RULES, set_aside=set_aside)
    state, _ = advance(begin(FULL_DEPTH, rules, last=0), audits, history_of(audits), rules)
    assert state.audits == (0 if set_aside else 300) or state.last < 300

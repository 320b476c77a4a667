"""The guarantee of a cohort: bolder policies, alarms, and the same changes however audits arrive."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.recalibrate.guarantee import GuaranteeRules, advance, begin
from edgeexit_calibration.recalibrate.tracked_path import path_delta
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calibration.recalibrate.known_risk import load

known_risk = load("known_risk")
COSTS, FULL_DEPTH, Difficulty = known_risk.COSTS, known_risk.FULL_DEPTH, known_risk.Difficulty

EASY, HARD = Difficulty((0.1, 0.05), (3.0, 3.0)), Difficulty((0.6, 0.4), (1.0, 1.0))
RULES = GuaranteeRules(risk=0.05, delta=0.1, costs=COSTS)
BOLD = msgspec.structs.replace(FULL_DEPTH, thresholds=(0.3, 0.2))
DEVICES = 20


def audits_from(*parts, seed=0, forged=None):
    """Return audits from (difficulty, number of audits); device 0 sends readouts `forged` [K, 4]."""
    random = np.random.default_rng(seed)
    readouts = np.concatenate([difficulty.draw(count, random) for difficulty, count in parts])
    devices = random.integers(0, DEVICES, len(readouts))
    if forged is not None:
        readouts[devices == 0] = forged
    return known_risk.audits_of(readouts, devices, after=0)


def run(audits, *, policy=FULL_DEPTH, rules=RULES, cuts=()):
    """Return the last state, and the changes with the number of audits before each."""

    def history(first, last, limit):
        return audits.part(max(first - 1, last - limit, 0), last)

    state, changes = begin(policy, rules, last=0), []
    for end in [*sorted(cuts), len(audits.ids)]:
        arrived = audits.part(0, end)
        while state.last < end:
            state, change = advance(state, arrived, history, rules)
            if change is not None:
                changes.append((state.last, change))
    return state, changes


def test_without_audits_the_registered_policy_is_in_force():
    state, changes = run(audits_from((EASY, 0)), policy=BOLD)
    assert state.policy == BOLD
    assert changes == []


def test_boldness_comes_with_the_audits_and_every_policy_has_the_risk_and_a_certificate():
    audits = audits_from((EASY, 5000))
    state, changes = run(audits)
    assert changes[0][0] < 200
    assert known_risk.cost(state.policy.thresholds) < 0.5
    for _, change in changes:
        assert change.kind == "bolder"
        assert change.alarm is None
        assert change.cost <= (1 - RULES.min_gain) * change.cost_before
        assert EASY.risk(change.policy.thresholds) <= RULES.risk
        assert change.certificate.observed < change.certificate.upper_bound <= RULES.risk
        assert change.cost == pytest.approx(3 * known_risk.cost(change.policy.thresholds), abs=0.25)
    assert changes[-1][1].policy == state.policy


def test_after_a_change_full_depth_is_in_force_at_once_and_boldness_comes_back():
    state, changes = run(audits_from((EASY, 2000), (HARD, 3000)))
    [(alarm_at, back)] = [(at, change) for at, change in changes if change.kind == "stepped back"]
    assert 2000 < alarm_at < 2150
    assert back.policy.thresholds == FULL_DEPTH.thresholds
    assert back.alarm.alarm_position == alarm_at
    assert abs(back.alarm.change_position - 2001) < 50
    assert back.certificate.observed == 0
    assert state.epoch == 2
    later = [(at, change) for at, change in changes if at > alarm_at]
    assert later[0][0] < alarm_at + 250
    assert known_risk.cost(state.policy.thresholds) < 0.95
    assert all(HARD.risk(change.policy.thresholds) <= RULES.risk for _, change in later)


def test_no_audit_from_before_the_alarm_certifies_a_policy_after_it():
    audits = audits_from((EASY, 2000), (HARD, 250))
    alarm_at = next(at for at, change in run(audits)[1] if change.kind == "stepped back")
    state, _ = run(audits.part(0, alarm_at + 50))
    assert len(state.paths) > 1
    for path in state.paths:
        assert path.after >= alarm_at
        assert path.test.samples == alarm_at + 50 - path.after


@settings(max_examples=4, deadline=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=6), tolerated=st.integers(0, 1))
def test_any_arrival_of_the_audits_gives_the_same_changes(cuts, tolerated):
    audits = audits_from((EASY, 2000), (HARD, 1000))
    rules = msgspec.structs.replace(RULES, tolerated_devices=tolerated)
    assert run(audits, rules=rules, cuts=cuts)[1] == run(audits, rules=rules)[1]


def test_a_registered_policy_that_exceeds_the_risk_is_withdrawn():
    assert HARD.risk(BOLD.thresholds) > 3 * RULES.risk
    _, changes = run(audits_from((HARD, 300)), policy=BOLD)
    assert changes[0][0] < 150
    assert changes[0][1].policy.thresholds == FULL_DEPTH.thresholds


def test_one_device_cannot_certify_a_policy():
    agrees = np.array([[0, 1, 0, 0]] * 3, np.float32)
    alone = known_risk.audits_of(np.repeat(agrees[None], 400, axis=0), np.zeros(400, np.int64), after=0)
    assert run(alone)[1]  # without tolerance it can
    assert run(alone, rules=msgspec.structs.replace(RULES, tolerated_devices=1))[1] == []


def test_one_device_cannot_raise_an_alarm():
    differs = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]])
    audits = audits_from((Difficulty((0.02, 0.02), (3.0, 3.0)), 4000), forged=differs)
    of_device = audits.part(0, 4000)
    of_device.devices[:800] = np.where(np.arange(800) % 4 == 0, 0, of_device.devices[:800])
    of_device.readouts[of_device.devices == 0] = differs
    assert any(change.kind == "stepped back" for _, change in run(of_device, policy=BOLD)[1])
    tolerant = msgspec.structs.replace(RULES, tolerated_devices=1)
    assert all(change.kind != "stepped back" for _, change in run(of_device, policy=BOLD, rules=tolerant)[1])


def test_honest_devices_raise_an_alarm_if_one_may_forge():
    tolerant = msgspec.structs.replace(RULES, tolerated_devices=1)
    _, changes = run(audits_from((HARD, 300)), policy=BOLD, rules=tolerant)
    assert changes[0][1].kind == "stepped back"
    assert changes[0][0] < 150


def test_another_number_of_tolerated_devices_begins_the_tests_anew_in_the_same_epoch():
    audits = audits_from((EASY, 1000))
    state, _ = run(audits)
    tolerant = msgspec.structs.replace(RULES, tolerated_devices=1)
    anew, change = advance(state, audits, None, tolerant)
    assert change is None
    assert (anew.policy, anew.epoch, anew.first, anew.last) == (state.policy, state.epoch, state.first, state.last)
    assert anew.cohort_monitor.tolerated_devices == 1
    [path] = anew.paths
    assert path.thresholds == state.path
    assert path.test.samples == 0
    assert path.devices.tolerated == 1
    assert path.test.delta == path_delta(state.paths_chosen, delta=RULES.delta, alpha=RULES.alpha)
    assert anew.paths_chosen == state.paths_chosen + 1


def test_the_parts_of_delta_leave_room_for_false_alarms():
    parts = [path_delta(number, delta=0.1, alpha=0.01) for number in range(10_000)]
    assert sum(parts) <= 0.099
    assert sum(parts[:6]) > 0.08  # the paths that are reached get most of it

"""The guarantee of a cohort: bolder policies, alarms, and the same changes however audits arrive."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.recalibrate.guarantee import advance, begin
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
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
    rules = msgspec.structs.replace(RULES, tolerated_devices=tolerated, tolerated_in_alarms=tolerated)
    found, expected = (run(audits, rules=rules, cuts=places)[1] for places in (cuts, ()))
    assert _rounded(found) == _rounded(expected)


def _rounded(changes):
    """Return changes whose e-values are rounded: sums of logarithms depend on the order in the last digit."""
    return [
        (at, msgspec.structs.replace(change, alarm=change.alarm and _rounded_alarm(change.alarm)))
        for at, change in changes
    ]


def _rounded_alarm(alarm):
    return msgspec.structs.replace(alarm, e_value=float(f"{alarm.e_value:.6g}"))


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
    tolerant = msgspec.structs.replace(RULES, tolerated_in_alarms=1)
    assert all(change.kind != "stepped back" for _, change in run(of_device, policy=BOLD, rules=tolerant)[1])


def test_honest_devices_raise_an_alarm_if_one_may_forge():
    tolerant = msgspec.structs.replace(RULES, tolerated_devices=1, tolerated_in_alarms=1)
    _, changes = run(audits_from((HARD, 300)), policy=BOLD, rules=tolerant)
    assert changes[0][1].kind == "stepped back"
    assert changes[0][0] < 150


@pytest.mark.parametrize("changed", [{"tolerated_devices": 1}, {"tolerated_in_alarms": 1}, {"alpha": 0.02}])
def test_other_terms_begin_the_tests_anew_in_the_same_epoch(changed):
    audits = audits_from((EASY, 1000))
    state, _ = run(audits)
    rules = msgspec.structs.replace(RULES, **changed)
    anew, change = advance(state, audits, lambda first, last, _: audits.part(first - 1, last), rules)
    assert change is None
    assert (anew.policy, anew.epoch, anew.first, anew.last) == (state.policy, state.epoch, state.first, state.last)
    assert anew.shares == state.shares
    goes_on = "tolerated_devices" in changed  # that concerns the tests only
    assert anew.monitor.samples == (state.monitor.samples if goes_on else 0)
    assert anew.cohort_monitor.tolerated_devices == rules.tolerated_in_alarms
    assert anew.monitor.alpha == rules.alpha
    kept, chosen = anew.paths
    assert kept.thresholds == state.path
    assert len(chosen.thresholds) > 2
    for number, path in enumerate(anew.paths, state.paths_chosen):
        assert path.test.samples == 0
        assert path.devices.tolerated == rules.tolerated_devices
        assert path.test.delta == path_delta(number, delta=RULES.delta, alpha=rules.alpha)
    assert anew.paths_chosen == state.paths_chosen + 2


def test_devices_of_different_difficulty_raise_no_alarm_while_the_data_stay_the_same():
    random = np.random.default_rng(1)
    devices = random.choice(20, 8000, p=[0.35, 0.35, *[0.3 / 18] * 18])  # two busy ones have easy inputs
    hard, easy = HARD.draw(8000, random), EASY.draw(8000, random)
    audits = known_risk.audits_of(np.where((devices < 2)[:, None, None], easy, hard), devices, after=0)
    changes = run(audits)[1]
    assert [change.kind for _, change in changes] == ["bolder"] * len(changes) != []


def test_a_busy_device_does_not_hide_what_the_others_see():
    random = np.random.default_rng(3)
    devices = np.where(random.random(20_000) < 0.9, 0, random.integers(1, 40, 20_000))
    readouts = HARD.draw(20_000, random)
    readouts[devices == 0] = np.array([[0, 1, 0, 0]] * 3, np.float32)
    audits = known_risk.audits_of(readouts, devices, after=0)
    assert HARD.risk(BOLD.thresholds) * 0.1 < RULES.risk
    assert run(audits, policy=BOLD)[1][0][1].kind == "stepped back"


def test_nothing_is_decided_on_audits_that_were_deleted_meanwhile():
    audits = audits_from((EASY, 400))
    state, change = advance(begin(BOLD, RULES, last=0), audits, lambda *_: audits.part(0, 0), RULES)
    assert change is None
    assert state.last == 400
    bad = audits_from((HARD, 400))
    state, change = advance(begin(BOLD, RULES, last=0), bad, lambda *_: bad.part(0, 0), RULES)
    assert (change.kind, change.cost) == ("stepped back", COSTS[-1])


def test_the_parts_of_delta_leave_room_for_false_alarms():
    parts = [path_delta(number, delta=0.1, alpha=0.01) for number in range(10_000)]
    assert sum(parts) <= 0.099
    assert sum(parts[:6]) > 0.08  # the paths that are reached get most of it

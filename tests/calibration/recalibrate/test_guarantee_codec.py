"""The state of a guarantee is the same after it was stored, and is not used if it is damaged or of another version."""

import hashlib

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.recalibrate import guarantee_codec
from edgeexit_calibration.recalibrate.audits import Audits
from edgeexit_calibration.recalibrate.device_comparison import DeviceComparison
from edgeexit_calibration.recalibrate.guarantee import advance, begin
from edgeexit_calibration.recalibrate.guarantee_codec import Snapshot, StateError, decode_snapshot, encode_snapshot
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from edgeexit_calibration.recalibrate.used_revisions import UsedRevisions

from edgeexit.policies.confidence import Confidence
from tests.calibration.scenario import DELTA, RISK, readouts_of

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(0.676, None))


def audits(count, *, seed):
    rng = np.random.default_rng(seed)
    ids = np.cumsum(rng.integers(1, 4, count))
    return Audits(ids, rng.integers(1, 6, count), readouts_of(count, seed=seed))


def run(state, all_audits, rules, *, upto):
    """Return the state after the audits up to an id, and the policies that it put in force."""

    def history(first, last, limit):
        chosen = np.flatnonzero((all_audits.ids >= first) & (all_audits.ids <= last))[-limit:]
        return Audits(*(column[chosen] for column in all_audits[:3]))

    policies = []
    known = all_audits.part(0, int(np.searchsorted(all_audits.ids, upto, side="right")))
    while True:
        state, change = advance(state, known, history, rules)
        if change is None:
            return state, policies
        policies.append((change.kind, change.policy.thresholds, change.certificate))


@pytest.mark.parametrize("tolerated", [0, 1])
def test_a_guarantee_continues_in_the_same_way_after_it_was_stored(tolerated):
    rules = GuaranteeRules(risk=RISK, delta=DELTA, costs=(1.0, 2.0, 3.0), tolerated_devices=tolerated)
    stream = audits(3000, seed=5)
    state, first = run(begin(POLICY, rules, last=0), stream, rules, upto=2000)
    restored = decode_snapshot(encode_snapshot(Snapshot(state, rules)), state.policy)
    assert restored.rules == rules
    assert encode_snapshot(restored) == encode_snapshot(Snapshot(state, rules))
    after, policies = run(state, stream, rules, upto=10_000)
    after_restored, policies_restored = run(restored.state, stream, rules, upto=10_000)
    assert first + policies
    assert policies == policies_restored
    assert encode_snapshot(Snapshot(after, rules)) == encode_snapshot(Snapshot(after_restored, rules))


def test_a_state_that_is_damaged_anywhere_or_of_another_version_is_not_used(monkeypatch):
    rules = GuaranteeRules(risk=RISK, delta=DELTA, costs=(1.0, 2.0, 3.0))
    encoded = encode_snapshot(Snapshot(begin(POLICY, rules, last=7), rules))
    assert decode_snapshot(encoded, POLICY).state.first == 8
    for place in range(0, len(encoded), 97):
        damaged = bytearray(encoded)
        damaged[place] ^= 1
        with pytest.raises(StateError, match="damaged"):
            decode_snapshot(bytes(damaged), POLICY)
    for length in (0, 10, 20, len(encoded) - 1):
        with pytest.raises(StateError, match="damaged"):
            decode_snapshot(encoded[:length], POLICY)
    monkeypatch.setattr(guarantee_codec, "_VERSION", 2)
    with pytest.raises(StateError, match="version 1"):
        decode_snapshot(encoded, POLICY)


def test_a_state_with_other_fields_is_not_used(monkeypatch):
    rules = GuaranteeRules(risk=RISK, delta=DELTA, costs=(1.0, 2.0, 3.0))
    encoded = encode_snapshot(Snapshot(begin(POLICY, rules, last=7), rules))
    for fields in ([("epoch", str)], [("unknown", int)]):
        other = msgspec.defstruct("Other", fields, forbid_unknown_fields=True)
        monkeypatch.setattr(guarantee_codec, "_State", other)
        with pytest.raises(StateError, match="another version of edgeexit"):
            decode_snapshot(encoded, POLICY)


def test_a_state_belongs_to_its_policy_whatever_the_number_of_the_revision():
    rules = GuaranteeRules(risk=RISK, delta=DELTA, costs=(1.0, 2.0, 3.0))
    encoded = encode_snapshot(Snapshot(begin(POLICY, rules, last=7), rules))
    assert decode_snapshot(encoded, msgspec.structs.replace(POLICY, thresholds=(0.677, None))) is None
    assert decode_snapshot(encoded, msgspec.structs.replace(POLICY, temperatures=(1.0, 1.0, 2.0))) is None
    assert decode_snapshot(encoded, msgspec.structs.replace(POLICY)).state.policy == POLICY


def test_a_state_from_before_revisions_were_left_out_and_devices_compared_is_used():
    rules = GuaranteeRules(risk=RISK, delta=DELTA, costs=(1.0, 2.0, 3.0))
    used = UsedRevisions().after_alarm(100, 3).after_alarm(200, 5)
    assert used == UsedRevisions(until=200, lowest=3, lowest_after=5)
    encoded = encode_snapshot(Snapshot(begin(POLICY, rules, last=200, used_revisions=used), rules))
    assert decode_snapshot(encoded, POLICY).state.used_revisions == used
    content = msgspec.msgpack.decode(encoded[16:])
    for name in ("used_revisions", "comparison", "set_aside"):
        del content["state"][name]
    for name in ("min_final_exits", "frozen", "max_changes_per_day", "set_aside"):
        del content["rules"][name]
    body = msgspec.msgpack.encode(content)
    old = decode_snapshot(hashlib.sha256(body).digest()[:16] + body, POLICY).state
    assert (old.used_revisions, old.last) == (UsedRevisions(), 200)
    assert (old.comparison, old.set_aside) == (DeviceComparison(), ())

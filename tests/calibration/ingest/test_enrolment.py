"""Only audits that the enrolled key of a device signed are stored; everything else is answered and shown."""

from datetime import datetime, timedelta, timezone

import pytest
from edgeexit_calibration import (
    CohortAddress,
    DeviceError,
    approve_device,
    device_events,
    devices,
    disagreement,
    register,
    revoke_device,
)
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.ingest.uplink import read_uplink

from edgeexit.signing import PrivateKey, key_id, public_key_text
from edgeexit.wire import up_topic
from tests.calibration.scenario import COHORT, DEVICE, FLEET, audits_of, payload_of, report_of, state_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
OURS, THEIRS = PrivateKey.generate(), PrivateKey.generate()
AUDIT = up_topic(DEVICE, "audit")


def ingest(database, *uplinks, enrolment="open", now=NOW):
    with database.writing() as session:
        return store_uplinks(session, uplinks, now=now, rules=IngestRules(enrolment=enrolment))


def signed(audit, key):
    return read_uplink(AUDIT, payload_of(AUDIT, audit, key=key))


def outcome(stored):
    """Return the acknowledged numbers, and the refused ones with `final`."""
    acked = [n for receipt in stored.receipts for n in receipt.sequences]
    return acked, [(r.sequence, r.final) for receipt in stored.receipts for r in receipt.refused]


def samples(database, bundle):
    return disagreement(database, CohortAddress(FLEET, bundle.digest, COHORT)).samples


def test_the_first_key_is_pinned_and_another_one_waits_for_the_operator(database, bundle):
    audits = audits_of(bundle, 4, size=1)
    assert outcome(ingest(database, signed(audits[0], OURS))) == ([0], [])
    stored = ingest(database, signed(audits[1], THEIRS), signed(audits[2], OURS))
    assert outcome(stored) == ([2], [(1, False)])
    assert samples(database, bundle) == 2
    [device] = devices(database)
    ours, theirs = key_id(OURS.public_key()), key_id(THEIRS.public_key())
    assert (device.key, device.offered_key) == (ours, theirs)
    approve_device(database, DEVICE.device, theirs, user="ada", now=NOW)
    stored = ingest(database, signed(audits[1], THEIRS), signed(audits[3], OURS))
    assert outcome(stored) == ([1], [(3, False)])
    assert [(e.kind, e.actor) for e in device_events(database)] == [
        ("key pinned", "calibrator"), ("key changed", "calibrator"), ("approved", "ada"),
    ]  # fmt: skip


def test_with_approval_nothing_is_stored_before_it(database, bundle):
    audit = audits_of(bundle, 1)[0]
    state = read_uplink(
        up_topic(DEVICE, "state"),
        payload_of("", state_of(bundle.digest, key=public_key_text(OURS.public_key()))),
    )
    ingest(database, state, enrolment="approve")
    assert devices(database)[0].offered_key == key_id(OURS.public_key())  # it can be approved before the first audit
    assert outcome(ingest(database, signed(audit, OURS), enrolment="approve")) == ([], [(0, False)])
    assert samples(database, bundle) == 0
    approve_device(database, DEVICE.device, None, user="ada", now=NOW)
    assert outcome(ingest(database, signed(audit, OURS), enrolment="approve")) == ([0], [])
    assert samples(database, bundle) == 1


def test_a_public_key_can_be_approved_while_a_forger_shows_another_one(database, bundle):
    audits = audits_of(bundle, 2, size=1)
    ingest(database, signed(audits[0], OURS), signed(audits[0], THEIRS), enrolment="approve")
    with pytest.raises(DeviceError, match="has not signed with key"):
        approve_device(database, DEVICE.device, key_id(OURS.public_key()), user="ada", now=NOW)
    approve_device(database, DEVICE.device, public_key_text(OURS.public_key()), user="ada", now=NOW)
    assert outcome(ingest(database, signed(audits[1], OURS), enrolment="approve")) == ([1], [])


def test_a_revoked_device_is_refused_for_good_and_its_state_is_still_shown(database, bundle):
    audits = audits_of(bundle, 2, size=1)
    ingest(database, signed(audits[0], OURS))
    revoke_device(database, DEVICE.device, user="ada", now=NOW)
    report = read_uplink(up_topic(DEVICE, "report"), payload_of("", report_of(bundle.digest, sequence=9)))
    state = read_uplink(up_topic(DEVICE, "state"), payload_of("", state_of(bundle.digest)))
    assert outcome(ingest(database, signed(audits[1], OURS), report, state)) == ([], [(1, True), (9, True)])
    assert devices(database)[0].online
    assert samples(database, bundle) == 1


def test_a_forger_with_many_keys_causes_one_event_a_day(database, bundle):
    audits = audits_of(bundle, 30, size=1)
    ingest(database, signed(audits[0], OURS))
    for audit in audits[1:]:
        ingest(database, signed(audit, PrivateKey.generate()), now=NOW + timedelta(minutes=audit.sequence))
    ingest(database, signed(audits[1], THEIRS), now=NOW + timedelta(days=2))
    assert [event.kind for event in device_events(database)] == ["key pinned", "key changed", "key changed"]


def test_an_audit_or_report_with_another_number_of_exits_than_the_bundle_is_refused_for_good(database, bundle):
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=0.1, delta=0.1, user="ada")
    wrong = read_uplink(up_topic(DEVICE, "report"), payload_of("", report_of(bundle.digest, sequence=1, counts=(1, 1))))
    right = read_uplink(
        up_topic(DEVICE, "report"), payload_of("", report_of(bundle.digest, sequence=2, counts=(1, 1, 1)))
    )
    stored = ingest(database, wrong, right)
    assert outcome(stored) == ([2], [(1, True)])
    assert [drop.cause for drop in stored.drops] == ["invalid"]

"""Whatever arrives on a topic of a device: the intake never fails, and never has an internal error."""

import json
import threading

import msgspec
import pytest
from edgeexit_calibration import register
from edgeexit_calibration.ingest import audit_store
from edgeexit_calibration.ingest.batch_store import BatchStore
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.store.counts import unpack_counts
from edgeexit_calibration.store.leases import LeaseLostError
from edgeexit_calibration.store.open_buckets import device_buckets
from edgeexit_calibration.store.tables import CohortBucketRow, DeviceRow, FleetRow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeexit.latency import LatencyProfile
from edgeexit.signing import PrivateKey
from edgeexit.wire import UP_TYPES, Ack, Delivery, decode, up_topic
from edgeexit.wire.audit_signing import sign_audit
from tests.calibration.scenario import COHORT, DELTA, DEVICE, FLEET, RISK, audits_of, payload_of, report_of, state_of

KEYS = [PrivateKey.generate() for _ in range(2)]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 2, 2**53, 2**63 - 1, 2**63, 10**30, 1e308, -0.0])
    | st.text(max_size=20)
    | st.sampled_from(["\ud800", "a" * 16, "f" * 64, "\x00", "x" * 5000]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def intake(database, bundle):
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada")
    sent = []
    opened = Intake(database, sent.extend, fleet=FLEET, rules=IngestRules())
    opened.sent = sent
    return opened


def messages(bundle):
    """Return valid messages by kind, as plain data."""
    profile = LatencyProfile(
        bundle=bundle.digest,
        machine="m",
        runtime="r",
        threads=1,
        batch=1,
        cold_load_ms=1.0,
        first_run_ms=1.0,
        stages=(),
    )
    found = {
        "state": state_of(bundle.digest),
        "report": report_of(bundle.digest, sequence=1),
        "audit": audits_of(bundle, 2)[0],
        "profile": profile,
    }
    return {kind: msgspec.to_builtins(message) for kind, message in found.items()}


def change(data, value):
    """Return `value` with some parts replaced by any JSON, or missing."""
    if isinstance(value, dict) and data.draw(st.integers(0, 3)):
        changed = dict(value)
        for name in data.draw(st.lists(st.sampled_from(sorted(value)), max_size=2)) if value else ():
            if data.draw(st.booleans()):
                changed[name] = change(data, value[name])
            else:
                changed.pop(name, None)
        return changed
    if isinstance(value, list | tuple) and value and data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(value) - 1))
        return [*value[:position], change(data, value[position]), *value[position + 1 :]]
    return data.draw(JSON)


def json_of(value):
    """Return JSON; unlike msgspec, it writes lone surrogates, too."""
    return json.dumps(value).encode()


def signed(topic, audit, key):
    """Return the payload of an audit that is any JSON."""
    return sign_audit(audit, topic=topic, key=key)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_message_causes_an_internal_error(database, bundle, intake, data):
    kind = data.draw(st.sampled_from(sorted(UP_TYPES)))
    payload = json_of(change(data, messages(bundle)[kind]))
    topic = up_topic(DEVICE, kind)
    if kind == "audit" and data.draw(st.booleans()):
        payload = signed(topic, payload, data.draw(st.sampled_from(KEYS)))
    elif kind == "audit":
        wrapped = {"audit": msgspec.json.decode(payload, strict=False) if b"\\ud800" not in payload else 1, "key": "?"}
        payload = json_of(change(data, wrapped))
    before = len(intake.sent)
    delivery = Delivery(topic=topic, payload=payload, retain=data.draw(st.booleans()))
    assert intake.store([delivery], threading.Event())
    assert len(intake.sent) - before <= 1
    with database.reading() as session:
        row = session.query(DeviceRow).one_or_none()
        assert row is None or "internal error" not in row.drops


@given(payload=st.binary(max_size=100))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_cause_an_internal_error(intake, payload):
    deliveries = [Delivery(topic=up_topic(DEVICE, kind), payload=payload) for kind in sorted(UP_TYPES)]
    assert intake.store(deliveries, threading.Event())
    assert intake.sent == []


def test_a_message_that_the_database_does_not_take_is_refused_for_now_and_the_others_are_stored(
    database, bundle, intake, monkeypatch, caplog
):
    original = audit_store._sample_rows

    def fail(audit_id, accepted):
        if accepted.audit.sequence == 1:
            raise OverflowError("a fault of the calibrator")
        return original(audit_id, accepted)

    monkeypatch.setattr(audit_store, "_sample_rows", fail)
    topic = up_topic(DEVICE, "audit")
    audits = audits_of(bundle, 3, size=1)
    assert intake.store(
        [Delivery(topic=topic, payload=payload_of(topic, audit)) for audit in audits],
        threading.Event(),
    )
    acks = [decode(payload, Ack) for _, payload in intake.sent]
    stored = [n for ack in acks for n in ack.sequences]
    [refusal] = [refusal for ack in acks for refusal in ack.refused]
    assert (stored, refusal.sequence, refusal.final) == ([0, 2], 1, False)
    assert "a fault of the calibrator" in caplog.text


def test_a_message_of_another_fleet_changes_nothing_in_that_fleet(database, bundle, intake):
    topic = up_topic(DEVICE._replace(fleet="depot"), "audit")
    payload = payload_of(topic, audits_of(bundle, 1)[0])
    assert intake.store([Delivery(topic=topic, payload=payload)], threading.Event())
    assert intake.store([], threading.Event())  # writes the counts
    assert intake.sent == []
    with database.reading() as session:
        assert session.query(DeviceRow).all() == []
        assert [(row.fleet, row.drops) for row in session.query(FleetRow)] == [(FLEET, {"unreadable": 1})]


def reports(count):
    """Return deliveries of one report each of different starts."""
    topic = up_topic(DEVICE, "report")
    found = [report_of("b" * 64, sequence=n, start=f"{n:016x}") for n in range(count)]
    return [Delivery(topic=topic, payload=payload_of(topic, report)) for report in found]


def acknowledged_by(intake):
    return sorted(n for _, payload in intake.sent for n in decode(payload, Ack).sequences)


def test_one_message_that_cannot_be_written_costs_few_transactions(database, intake, monkeypatch):
    original, tries = BatchStore.store, []

    def fail(self, session, uplinks, **options):
        tries.append(len(uplinks))
        if any(uplink.message.sequence == 77 for uplink in uplinks):
            raise ValueError("a fault of the calibrator")
        return original(self, session, uplinks, **options)

    monkeypatch.setattr(BatchStore, "store", fail)
    assert intake.store(reports(256), threading.Event())
    assert acknowledged_by(intake) == [n for n in range(256) if n != 77]
    assert len(tries) == 2 * 8 + 1


def test_after_a_lost_lease_nothing_is_stored_or_answered_and_the_next_batch_is_right(database):
    sent, lost = [], [True]

    def check(_connection):
        if lost:
            raise LeaseLostError("another process stores the messages of shard 's0'")

    fenced = Intake(database, sent.extend, fleet=FLEET, rules=IngestRules(), fence=check)
    assert not fenced.store(reports(3), threading.Event())
    assert sent == []
    with database.reading() as session:
        assert session.query(DeviceRow).all() == []
    lost.clear()
    assert fenced.store(reports(3), threading.Event())
    assert len(sent) == 3


def test_drops_count_when_their_batch_is_committed_and_only_those_of_the_shards_that_are_stored(database):
    lost = [True]

    def check(_connection):
        if lost:
            raise LeaseLostError("another process stores the messages of shard 's0'")

    intake = Intake(database, lambda _: None, fleet=FLEET, rules=IngestRules(), fence=check)
    other = DEVICE._replace(shard="s9")
    messages = intake.reader.read([Delivery(topic=up_topic(one, "state"), payload=b"{") for one in (DEVICE, other)])
    kept = messages.of_shards({DEVICE.shard})
    assert [drop.address for drop in kept.drops] == [DEVICE]
    kept = kept._replace(uplinks=intake.reader.read(reports(1)).uplinks)
    assert not intake.write(kept, threading.Event())
    assert intake.drops.total == 0
    lost.clear()
    assert intake.write(kept, threading.Event())
    assert intake.store([], threading.Event())
    with database.reading() as session:
        assert [row.drops for row in session.query(DeviceRow)] == [{"unreadable": 1}]
        assert session.query(FleetRow).all() == []


def test_a_report_of_another_cohort_or_number_of_exits_does_not_count_in_a_series(database, intake):
    topic = up_topic(DEVICE, "report")
    first = report_of("b" * 64, sequence=1, counts=(3, 0, 0))
    others = [
        report_of("c" * 64, sequence=2, counts=(9, 0, 0)),
        report_of("b" * 64, sequence=3, counts=(9, 0)),
        report_of("b" * 64, sequence=4, counts=(4, 0, 0)),
    ]
    for report in (first, *others):
        assert intake.store([Delivery(topic=topic, payload=payload_of(topic, report))], threading.Event())
    assert acknowledged_by(intake) == [1, 2, 3, 4]
    assert intake.store([], threading.Event())
    with database.reading() as session:
        [device] = session.query(DeviceRow).all()
        assert device.drops == {"other cohort": 2}
        [bucket] = device_buckets(session, [device.id])
        assert unpack_counts(bucket.counts)[1] == 4


def test_what_another_process_has_stored_meanwhile_counts_after_forget(database):
    first, second = (Intake(database, lambda _: None, fleet=FLEET, rules=IngestRules()) for _ in range(2))
    topic = up_topic(DEVICE, "report")
    for sequence, intake in enumerate((first, second, first), start=1):  # the lease of the shard moves
        intake.forget()
        report = report_of("b" * 64, sequence=sequence, counts=(sequence, 0, 0))
        assert intake.store([Delivery(topic=topic, payload=payload_of(topic, report))], threading.Event())
    with database.reading() as session:
        [bucket] = session.query(CohortBucketRow).all()
        assert unpack_counts(bucket.counts)[1] == 3


def test_contradicting_counters_are_refused_for_good_and_the_others_of_the_batch_are_stored(intake):
    topic = up_topic(DEVICE, "report")
    wrong = msgspec.to_builtins(report_of("b" * 64, sequence=500))
    wrong["exits"][0]["exited"] = 10**6
    deliveries = [*reports(2), Delivery(topic=topic, payload=json_of(wrong))]
    assert intake.store(deliveries, threading.Event())
    assert acknowledged_by(intake) == [0, 1]
    [refusal] = [refusal for _, payload in intake.sent for refusal in decode(payload, Ack).refused]
    assert (refusal.sequence, refusal.final) == (500, True)

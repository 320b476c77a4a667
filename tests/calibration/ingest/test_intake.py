"""Whatever arrives on a topic of a device: the intake never fails, and never has an internal error."""

import json
import threading

import msgspec
import pytest
from edgeexit_calibration import register
from edgeexit_calibration.ingest import audit_store
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.store.tables import DeviceRow, FleetRow
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

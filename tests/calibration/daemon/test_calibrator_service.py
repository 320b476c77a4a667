"""The calibrator service with a real broker and a real database, through restarts of both."""

import sqlite3
import threading
import time

from edgeexit_calibration import (
    CohortAddress,
    audit_watermark,
    devices,
    disagreement,
    exit_mix,
    fleets,
    open_database,
    policy_history,
    register,
)
from edgeexit_calibration.publishing import retained
from edgeexit_calibration.publishing.publisher import Publisher
from edgeexit_calibration.recalibrate import watcher
from edgeexit_calibration.recalibrate.watcher import Watcher
from edgeexit_calibration.store.maintenance import Maintenance
from edgeexit_calibration.store.tables import GuaranteeRow
from sqlalchemy import select

from edgeexit.policies import PolicyDocument, Scope, decode_document, disagrees, encode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import load_private_key, load_public_key, sign, verify
from edgeexit.wire import UP_TYPES, down_topic, policy_topic, up_topic
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.scenario import (
    COHORT,
    DELTA,
    DEVICE,
    FLEET,
    RISK,
    RefusingBroker,
    acknowledged,
    audits_of,
    readouts_of,
    report_of,
    state_of,
    until,
)

DIGEST = "c" * 64


def documents(client, topic, key):
    keys = [load_public_key(key.with_suffix(".pub"))]
    return [decode_document(verify(e, payload_type=PAYLOAD_TYPE, keys=keys)) for e in client.of(topic)]


def test_a_registered_policy_is_published_and_replaced_after_drift(database, bundle, broker, key, serve, connect):
    cohort = register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada").cohort
    serve()
    topic = policy_topic(*cohort)
    until(lambda: policy_history(database, cohort)[0].published_at is not None)
    device = connect(topic, down_topic(DEVICE, "ack"))  # connects later: the policy is retained
    until(lambda: device.of(topic))
    [first] = documents(device, topic, key)
    assert (first.revision, first.scope, first.bundle) == (1, Scope(fleet=FLEET, cohort=COHORT), bundle.digest)
    assert first.policy == bundle.policy().policy

    device.publish(up_topic(DEVICE, "state"), state_of(bundle.digest))
    for audit in audits_of(bundle, 200, trust=0.5):
        device.publish(up_topic(DEVICE, "audit"), audit)
    until(lambda: documents(device, topic, key)[-1].revision > first.revision)
    back = documents(device, topic, key)[-1]
    options = {"trust": 0.5, "policy": back.policy, "revision": back.revision, "first_sequence": 2, "seed": 8}
    for audit in audits_of(bundle, 600, **options):
        device.publish(up_topic(DEVICE, "audit"), audit)
    until(lambda: policy_history(database, cohort)[-1].reason.startswith("bolder"))
    newest = policy_history(database, cohort)[-1].revision
    until(lambda: documents(device, topic, key)[-1].revision >= newest)
    *_, last = documents(device, topic, key)
    assert (last.scope, last.bundle) == (first.scope, bundle.digest)
    assert policy_history(database, cohort)[1].reason.startswith("stepped back")
    drifted = readouts_of(20_000, trust=0.5, seed=50)
    assert disagrees(last.policy, drifted).mean() <= RISK < disagrees(first.policy, drifted).mean()
    until(lambda: sorted(acknowledged(device)) == list(range(8)))
    assert [view.device for view in devices(database)] == ["camera-1"]


def test_a_registration_while_the_service_runs_is_published(database, bundle, key, serve, connect):
    serve()
    topic = policy_topic(FLEET, bundle.digest, COHORT)
    device = connect(topic)
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada")
    until(lambda: device.of(topic))
    assert documents(device, topic, key)[0].revision == 1


def test_the_first_publication_after_a_connect_does_not_wait_for_the_next_check(
    database, bundle, serve, connect, monkeypatch
):
    # The last step of the check that a connect wakes takes longer than the publisher reads.
    monkeypatch.setattr(Maintenance, "run", lambda *_, **__: time.sleep(0.7))
    cohort = register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada").cohort
    serve(check_interval_s=3600.0)
    device = connect(policy_topic(*cohort))
    until(lambda: device.of(policy_topic(*cohort)))


@ON_SQLITE
def test_a_connect_during_a_check_publishes_nothing_before_what_is_retained_was_read(
    database, bundle, broker, serve, connect, monkeypatch
):
    checking, connected = threading.Event(), threading.Event()
    resets, published = [], []

    def check(*_, **__):
        checking.set()
        connected.wait(15)

    monkeypatch.setattr(Watcher, "check", check)
    monkeypatch.setattr(Publisher, "reset", lambda _: resets.append(1))
    monkeypatch.setattr(Publisher, "publish", lambda *_, **__: published.append(len(resets)))
    broker.stop()
    service, _ = serve(waits=False)
    assert checking.wait(15)
    broker.start()
    until(lambda: service.connected)
    connected.set()
    until(lambda: published)
    assert published[0] >= 1


def test_a_revision_that_our_key_signed_for_an_earlier_database_is_followed_by_a_higher_one(
    database, bundle, key, serve, connect, caplog
):
    cohort = register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada").cohort
    topic = policy_topic(*cohort)
    device = connect(topic)
    earlier = PolicyDocument(
        bundle=bundle.digest, revision=5, policy=bundle.policy().policy, scope=Scope(fleet=FLEET, cohort=COHORT)
    )
    keys = [load_private_key(key)]
    device.publish(topic, sign(encode_document(earlier), payload_type=PAYLOAD_TYPE, keys=keys), retain=True)
    serve()
    until(lambda: documents(device, topic, key)[-1].revision > 5)
    assert documents(device, topic, key)[-1].revision == 6
    assert [record for record in caplog.records if "restored" in record.getMessage()]


def test_messages_are_acknowledged_while_a_change_is_computed(database, bundle, serve, connect, monkeypatch):
    computing, may_continue = threading.Event(), threading.Event()

    def slow_advance(*arguments):
        computing.set()
        may_continue.wait(20)
        return advance(*arguments)

    advance = watcher.advance
    monkeypatch.setattr(watcher, "advance", slow_advance)
    cohort = register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada").cohort
    serve()
    until(lambda: policy_history(database, cohort)[0].published_at is not None)  # then the service has subscribed
    device = connect(down_topic(DEVICE, "ack"))
    for audit in audits_of(bundle, 200, trust=0.3):
        device.publish(up_topic(DEVICE, "audit"), audit)
    assert computing.wait(15)
    device.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=99))
    until(lambda: 99 in acknowledged(device))
    assert len(policy_history(database, cohort)) == 1
    may_continue.set()
    until(lambda: len(policy_history(database, cohort)) == 2)


def test_a_service_that_stops_stores_what_its_audits_have_shown(database, bundle, serve, connect):
    def last_sample():
        with database.reading() as session:
            return session.scalars(select(GuaranteeRow.last_sample)).one()

    cohort = register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada").cohort
    _, stop = serve()
    until(lambda: policy_history(database, cohort)[0].published_at is not None)
    device = connect(down_topic(DEVICE, "ack"))
    device.publish(up_topic(DEVICE, "audit"), audits_of(bundle, 100, seed=11)[0])
    until(lambda: acknowledged(device))
    time.sleep(1)  # several checks, which do not store the state
    assert last_sample() == 0
    stop()
    assert last_sample() == audit_watermark(database, cohort) > 0


def test_policies_are_published_again_after_the_broker_lost_everything(database, bundle, broker, key, serve, connect):
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada")
    topic = policy_topic(FLEET, bundle.digest, COHORT)
    broker.stop()
    serve(waits=False)  # the broker is not running; the service retries
    time.sleep(0.3)
    for _ in range(2):
        broker.start()
        device = connect(topic)
        until(lambda device=device: device.of(topic))
        assert documents(device, topic, key)[0].revision == 1
        broker.stop()


def test_a_replaced_policy_is_published_again_while_devices_send_messages(
    database, bundle, serve, connect, monkeypatch, caplog
):
    monkeypatch.setattr(retained, "_REPLACED_PAUSE_S", 0.5)
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada")
    topic = policy_topic(FLEET, bundle.digest, COHORT)
    device = connect(topic, down_topic(DEVICE, "ack"))
    serve()
    until(lambda: policy_history(database, CohortAddress(FLEET, bundle.digest, COHORT))[0].published_at)
    ours = device.of(topic)[0]
    for sequence in range(200):
        device.send(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=sequence))
        if sequence == 100:
            device.send(topic, b"from another client")
    until(lambda: device.of(topic)[-2:] == [b"from another client", ours])
    until(lambda: set(acknowledged(device)) == set(range(200)))
    assert "lost the connection to the broker" not in caplog.text
    assert "dropped" not in caplog.text


def test_a_policy_that_the_broker_refuses_is_logged(database, bundle, serve, caplog):
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada")
    acl = RefusingBroker()
    serve(url=acl.url, waits=False)
    until(lambda: "was refused by the broker" in caplog.text)
    acl.close()


def test_messages_are_committed_before_the_acknowledgement_and_duplicates_are_acknowledged_again(
    database_url, serve, connect
):
    serve()
    device = connect(down_topic(DEVICE, "ack"))
    until(lambda: _is_acknowledged(device, report_of(DIGEST, sequence=1)))
    other = open_database(database_url)  # sees committed data only
    for sequence in range(2, 30):
        device.publish(up_topic(DEVICE, "report"), report_of(DIGEST, sequence=sequence, counts=(5 + sequence, 3, 2)))
        until(lambda sequence=sequence: sequence in acknowledged(device))
        assert exit_mix(other, CohortAddress(FLEET, DIGEST, COHORT)).samples == 10 + sequence
    other.close()
    before = acknowledged(device).count(29)
    device.publish(up_topic(DEVICE, "report"), report_of(DIGEST, sequence=29))
    until(lambda: acknowledged(device).count(29) > before)


@ON_SQLITE
def test_messages_are_not_acknowledged_while_the_database_is_locked(database, serve, connect, tmp_path):
    impatient = open_database(str(database.engine.url.database), busy_timeout_s=0.1)
    serve(impatient)
    device = connect(down_topic(DEVICE, "ack"))
    until(lambda: _is_acknowledged(device, report_of(DIGEST, sequence=1)))
    lock = sqlite3.connect(database.engine.url.database)
    lock.execute("BEGIN IMMEDIATE")
    device.publish(up_topic(DEVICE, "report"), report_of(DIGEST, sequence=2))
    time.sleep(0.7)
    assert 2 not in acknowledged(device)
    lock.rollback()
    until(lambda: 2 in acknowledged(device))
    impatient.close()


@ON_SQLITE
def test_messages_are_not_acknowledged_while_the_database_file_is_missing(database, tmp_path, serve, connect, caplog):
    caplog.set_level("INFO", "edgeexit_calibration")
    serve()
    device = connect(down_topic(DEVICE, "ack"))
    until(lambda: _is_acknowledged(device, report_of(DIGEST, sequence=1)))
    (tmp_path / "aside").mkdir()
    for file in tmp_path.glob("calibrator.sqlite*"):
        file.rename(tmp_path / "aside" / file.name)
    device.publish(up_topic(DEVICE, "report"), report_of(DIGEST, sequence=2))
    time.sleep(1.5)
    assert 2 not in acknowledged(device)
    assert not (tmp_path / "calibrator.sqlite").exists()
    for file in (tmp_path / "aside").iterdir():
        file.rename(tmp_path / file.name)
    until(lambda: 2 in acknowledged(device))
    until(lambda: "resuming checks of cohorts" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if record.name == "edgeexit_calibration.ingest.outage"]
    assert sum("pausing acknowledgements" in line and "removed or replaced" in line for line in lines) == 1
    assert sum("pausing checks of cohorts" in line for line in lines) == 1
    resumed = {line.partition("; resuming ")[2] for line in lines if "database reachable again" in line}
    assert {"acknowledgements", "checks of cohorts"} <= resumed


def test_invalid_messages_are_dropped_and_counted_and_do_not_stop_the_service(database, bundle, serve, connect, caplog):
    service, _ = serve()
    device = connect(down_topic(DEVICE, "ack"))
    until(lambda: _is_acknowledged(device, report_of(DIGEST, sequence=1)))
    deep = b"[" * 100_000 + b"]" * 100_000
    garbage = [b"", b"\xff\xfe", b"{}", deep, b"[" * 100_000, b'{"x":' * 40_000, b'{"x":' + deep + b"}"]
    garbage += [b'{"start": 1}', b'{"start": "\\ud800", "sequence": 1}', b'{"start": "' + b"0" * 261_000 + b'"}']
    for payload in garbage:
        for kind in UP_TYPES:
            device.publish(up_topic(DEVICE, kind), payload)
    device.publish(f"edgeexit/v1/{FLEET}/s0/a \x1b\nb/up/state", state_of(DIGEST))
    device.publish(f"edgeexit/v1/{FLEET}/s0/a/up/state/deeper", state_of(DIGEST))
    device.publish(up_topic(DEVICE, "report"), report_of(DIGEST, sequence=2))
    until(lambda: 2 in acknowledged(device))
    until(lambda: service.dropped == len(garbage) * len(UP_TYPES) + 2)
    lines = [record.getMessage() for record in caplog.records if "not stored" in record.getMessage()]
    assert 1 <= len(lines) <= 3  # one per device and cause, not one per message
    assert all(line.isprintable() for line in lines)
    until(lambda: sum(devices(database)[0].drops.values()) == service.dropped - 2)
    until(lambda: [fleet.drops for fleet in fleets(database)] == [{"unreadable": 2}])


def test_messages_sent_while_the_service_is_stopped_are_stored_after_its_restart(database, bundle, serve, connect):
    _, stop = serve()
    device = connect(down_topic(DEVICE, "ack"))
    until(lambda: _is_acknowledged(device, report_of(DIGEST, sequence=1)))
    stop()
    for audit in audits_of(bundle, 300):
        device.publish(up_topic(DEVICE, "audit"), audit)  # the broker stores them, because the session is persistent
    serve()
    until(lambda: {0, 1, 2} <= set(acknowledged(device)))
    assert disagreement(database, CohortAddress(FLEET, bundle.digest, COHORT)).samples == 300


def test_a_burst_of_messages_does_not_break_the_connection(database, serve, connect, caplog):
    caplog.set_level("INFO")
    serve()
    device = connect(down_topic(DEVICE, "ack"))
    until(lambda: _is_acknowledged(device, report_of(DIGEST, sequence=0)))
    for sequence in range(1, 2000):
        device.send(up_topic(DEVICE, "report"), report_of(DIGEST, sequence=sequence))
    until(lambda: set(acknowledged(device)) >= set(range(2000)))
    assert not [record for record in caplog.records if "lost the connection to the broker" in record.getMessage()]


def _is_acknowledged(device, message):
    """Send a message; return whether the service acknowledged it, which needs a connection to the broker."""
    device.publish(up_topic(DEVICE, "report"), message)
    time.sleep(0.1)
    return bool(acknowledged(device))

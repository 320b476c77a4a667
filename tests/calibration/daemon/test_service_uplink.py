"""The service against hostile, broken and cloned devices, with a real broker and a real database."""

import sqlite3
import time

import msgspec
from edgeexit_calibration import CohortAddress, devices, disagreement, exit_mix, fleets
from edgeexit_calibration.daemon.consumers import ALL_SHARDS
from edgeexit_calibration.ingest.quotas import Quotas
from edgeexit_calibration.store.tables import AuditedSampleRow, AuditRow, SeriesRow
from sqlalchemy import func, select

from edgeexit.signing import PrivateKey
from edgeexit.wire import MAX_BYTES, down_topic, up_topic
from tests.broker import Mosquitto
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.scenario import (
    COHORT,
    DEVICE,
    FLEET,
    Client,
    acknowledged,
    audits_of,
    payload_of,
    refused,
    report_of,
    state_of,
    until,
)

DIGEST = "c" * 64
REPORT, AUDIT, ACK = up_topic(DEVICE, "report"), up_topic(DEVICE, "audit"), down_topic(DEVICE, "ack")


def wait_for_service(device):
    """Wait until the service has subscribed."""

    def is_acknowledged():
        device.publish(REPORT, report_of(DIGEST, sequence=999))
        time.sleep(0.1)
        return acknowledged(device)

    until(is_acknowledged)


def test_poison_messages_get_a_final_refusal_and_are_shown(database, bundle, serve, connect, caplog):
    serve()
    device = connect(ACK)
    wait_for_service(device)
    report = msgspec.to_builtins(report_of(bundle.digest, sequence=5))
    audit = msgspec.json.decode(payload_of(AUDIT, audits_of(bundle, 1, first_sequence=6)[0]))
    device.publish(REPORT, msgspec.json.encode({**report, "exits": "none"}))
    device.publish(AUDIT, msgspec.json.encode({**audit, "signature": "A" * 86 + "=="}))
    for number in range(7, 207):
        device.send(REPORT, msgspec.json.encode({**report, "sequence": number, "bundle": ""}))
    device.publish(REPORT, msgspec.json.encode({**report, "sequence": 207, "extra": "x" * MAX_BYTES}))
    until(lambda: {refusal.sequence for refusal in refused(device)} == set(range(5, 208)))
    assert all(refusal.final and refusal.reason for refusal in refused(device))
    assert acknowledged(device)
    assert set(acknowledged(device)) == {999}
    until(lambda: devices(database)[0].drops == {"invalid": 203})
    lines = [record.getMessage() for record in caplog.records if "not stored" in record.getMessage()]
    assert len(lines) == 1
    assert "shop/s0/camera-1: message not stored (invalid)" in lines[0]


def test_an_audit_with_an_unknown_key_is_refused_until_it_is_approved(database, bundle, serve, connect):
    serve()
    device = connect(ACK)
    wait_for_service(device)
    first, second = audits_of(bundle, 2, size=1)
    device.publish(AUDIT, first)
    until(lambda: 0 in acknowledged(device))
    device.publish(AUDIT, payload_of(AUDIT, second, key=PrivateKey.generate()))
    until(lambda: refused(device))
    [refusal] = refused(device)
    assert (refusal.sequence, refusal.final) == (1, False)
    assert disagreement(database, CohortAddress(FLEET, bundle.digest, COHORT)).samples == 1


def test_of_two_live_clones_everything_that_is_answered_is_stored_and_the_clone_is_shown(
    database, bundle, serve, connect
):
    """Both have the same outbox: 100 reports and 100 audits with the same numbers each."""
    serve()
    device = connect(ACK)
    wait_for_service(device)
    starts = ("a" * 16, "b" * 16)
    audits = audits_of(bundle, 100, size=1, first_sequence=1000)
    for step in range(100):
        for start in starts:
            if step % 25 == 0:
                device.send(up_topic(DEVICE, "state"), state_of(bundle.digest, start=start, uptime_s=step + 1.0))
            # each revision is a row of its own, so a report that is stored in place of another one would be noticed
            device.send(REPORT, report_of(bundle.digest, sequence=step, start=start, revision=step))
            device.send(AUDIT, msgspec.structs.replace(audits[step], start=start))
    until(lambda: len([n for n in acknowledged(device) if n != 999]) == 400)
    with database.reading() as session:
        reports = select(func.count()).select_from(SeriesRow).where(SeriesRow.start.in_(starts))
        assert session.scalar(reports) + session.scalar(select(func.count()).select_from(AuditRow)) == 400
        assert session.scalar(select(func.count()).select_from(AuditedSampleRow)) == 200
    counted = disagreement(database, CohortAddress(FLEET, bundle.digest, COHORT)).samples
    assert 0 < counted < 200  # those before the clone was noticed
    assert set(devices(database)[0].clone_starts) == set(starts)


def test_uplink_with_qos_0_is_dropped_and_counted(database, tmp_path, serve):
    broker = Mosquitto(tmp_path / "mosquitto")  # rumqttd delivers messages with QoS 0 as QoS 1
    broker.start()
    device = Client(broker, ACK)
    service, _ = serve(url=broker.url)
    wait_for_service(device)
    for sequence in range(50):
        device.send(REPORT, report_of(DIGEST, sequence=sequence), qos=0)
    device.publish(REPORT, report_of(DIGEST, sequence=60))
    until(lambda: 60 in acknowledged(device))
    assert not set(range(50)) & set(acknowledged(device))
    until(lambda: devices(database)[0].drops == {"qos 0": 50})
    assert service.dropped == 50
    device.close()
    broker.stop()


def test_a_device_over_its_quota_is_not_answered_and_others_are(database, serve, connect):
    serve(quotas=Quotas(messages_per_minute=60, message_burst=20, max_devices=2))
    other, third = DEVICE._replace(device="camera-2"), DEVICE._replace(device="camera-3")
    device = connect(ACK, down_topic(other, "ack"), down_topic(third, "ack"))
    wait_for_service(device)
    for sequence in range(100):
        device.send(REPORT, report_of(DIGEST, sequence=sequence))
    device.publish(up_topic(other, "report"), report_of(DIGEST, sequence=1))
    device.publish(up_topic(third, "report"), report_of(DIGEST, sequence=1))
    until(lambda: acknowledged(device, other) == [1])
    until(lambda: devices(database)[0].drops.get("over quota", 0) >= 80)
    until(lambda: fleets(database) and fleets(database)[0].drops == {"too many devices": 1})
    assert "camera-3" in fleets(database)[0].last_drop
    assert acknowledged(device, third) == []


@ON_SQLITE
def test_while_the_database_fails_the_broker_keeps_the_messages(database, tmp_path, serve):
    """With Receive Maximum 20, at most 20 messages wait in the process; nothing is lost."""
    broker = Mosquitto(tmp_path / "mosquitto", lines=["max_inflight_messages 0", "max_queued_messages 0"])
    broker.start()
    device = Client(broker, ACK)
    service, _ = serve(url=broker.url, max_unstored=20)
    wait_for_service(device)
    lock = sqlite3.connect(database.engine.url.database, check_same_thread=False)
    lock.execute("BEGIN IMMEDIATE")
    for sequence in range(300):
        device.send(REPORT, report_of(DIGEST, sequence=sequence, revision=sequence))
    time.sleep(1.0)
    assert 0 < service.health.waiting <= 20
    lock.rollback()
    until(lambda: set(range(300)) <= set(acknowledged(device)))
    assert exit_mix(database, CohortAddress(FLEET, DIGEST, COHORT)).samples == 300 * 10
    device.close()
    broker.stop()


def test_shards_whose_names_begin_like_topics_of_the_fleet_are_stored(database, serve, connect):
    addresses = [DEVICE._replace(shard=shard) for shard in ("keys-2", "policy-2", "heartbeats", "keys_")]
    service, _ = serve()
    device = connect(ACK, *(down_topic(address, "ack") for address in addresses))
    wait_for_service(device)
    for address in addresses:
        device.publish(up_topic(address, "state"), state_of(DIGEST), retain=True)  # by which the leader finds shards
    until(lambda: service.connected >= {address.shard for address in addresses} or service.connected == {ALL_SHARDS})
    for address in addresses:
        device.publish(up_topic(address, "report"), report_of(DIGEST, sequence=1))
    until(lambda: all(acknowledged(device, address) == [1] for address in addresses))

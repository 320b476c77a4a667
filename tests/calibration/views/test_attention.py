"""What needs attention: the most urgent kind first, and nothing that is over."""

from datetime import datetime, timedelta, timezone

import msgspec
from edgeexit_calibration import devices, status
from edgeexit_calibration.ingest.drops import Drop, DropCounter
from edgeexit_calibration.ingest.uplink import Uplink

from edgeexit.wire import Losses, Rejection, Reversion
from tests.calibration.scenario import DEVICE, FLEET, report_of, state_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
DIGEST = "a" * 64


def ingest(database, *messages, now=NOW):
    with database.writing() as session:
        store_uplinks(session, [Uplink(DEVICE, message) for message in messages], now=now)


def attention(database, *, now=NOW):
    """Return what needs attention, apart from that no calibrator runs in these tests."""
    return [item for item in status(database, now=now).attention if item.kind != "no calibrator"]


def kinds(database, *, now=NOW):
    return [item.kind for item in attention(database, now=now)]


def test_every_trouble_of_a_device_is_listed_the_most_urgent_first(database):
    state = state_of(
        DIGEST,
        problems=("the disk is full",),
        unconfirmed=True,
        reverted=Reversion(revision=3, reason="no exit fires"),
        rejected=Rejection(reason="wrong signature"),
    )
    ingest(database, state_of(DIGEST, start="b" * 16), state_of(DIGEST, start="c" * 16))
    ingest(database, msgspec.structs.replace(state, start="b" * 16, uptime_s=9.0))
    ingest(
        database, msgspec.structs.replace(report_of(DIGEST, sequence=1), losses=Losses(oversized=1, largest_bytes=7))
    )
    counter = DropCounter(FLEET)
    counter.add(Drop(DEVICE, "invalid", "no exits"))
    counter.add(Drop(DEVICE._replace(device="unknown"), "unreadable", "garbage"))
    with database.writing() as session:
        counter.take().write(session, now=NOW)
    expected = ["clone", "unconfirmed", "reverted", "rejected", "problem", "losses", "not stored", "not stored"]
    assert kinds(database) == expected
    found = {item.kind: item.text for item in attention(database)}
    assert "1 oversized (largest 7 bytes)" in found["losses"]
    later = NOW + timedelta(days=1)
    assert kinds(database, now=later) == ["clone", "unconfirmed", "reverted", "rejected", "problem"]


def test_losses_that_do_not_increase_are_not_reported_again(database):
    lost = msgspec.structs.replace(report_of(DIGEST, sequence=1), losses=Losses(full=5))
    ingest(database, lost)
    later = NOW + timedelta(days=3)
    ingest(database, msgspec.structs.replace(lost, sequence=2), now=later)
    assert kinds(database, now=later) == []
    ingest(database, msgspec.structs.replace(lost, sequence=3, losses=Losses(full=5, damaged=1)), now=later)
    assert kinds(database, now=later) == ["losses"]


def test_an_offline_device_is_not_unconfirmed(database):
    ingest(database, state_of(DIGEST, unconfirmed=True), state_of(DIGEST, online=False))
    assert kinds(database) == []


def test_counts_that_could_not_be_written_are_not_lost(database):
    ingest(database, state_of(DIGEST))
    counter = DropCounter(FLEET)
    counter.add(Drop(DEVICE, "invalid", "first"))
    pending = counter.take()
    counter.add(Drop(DEVICE, "invalid", "second"))
    counter.put_back(pending)
    with database.writing() as session:
        counter.take().write(session, now=NOW)
    assert devices(database)[0].drops == {"invalid": 2}
    assert counter.total == 2

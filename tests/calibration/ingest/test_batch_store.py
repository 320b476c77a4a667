"""Whatever arrives, in whatever order and batches: buckets and totals contain each sample once, on both databases."""

import itertools
from collections import defaultdict
from datetime import datetime, timedelta, timezone

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.ingest.batch_store import BatchStore
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.counts import unpack_counts
from edgeexit_calibration.store.expiry import expire_series
from edgeexit_calibration.store.open_buckets import device_buckets
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditRow,
    AuditTotalRow,
    CohortBucketRow,
    CohortRow,
    DeviceBucketRow,
    DeviceRow,
    SeriesRow,
    ShardRow,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from edgeexit.wire import DeviceAddress, Losses
from edgeexit.wire.audit_parts import split_audit
from tests.calibration.scenario import audits_of, report_of, state_of, store_uplinks, with_counts

NOW = datetime(2025, 6, 1, 12, tzinfo=timezone.utc)
DIGEST = "b" * 64
_fleets = (f"fleet-{n}" for n in itertools.count())
CHECKS = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def sums_of(database, fleet, table):
    """Return {(device or cohort id, revision): sum of the counts} of the buckets of a fleet."""
    sums = defaultdict(lambda: 0)
    with database.reading() as session:
        if table is DeviceBucketRow:
            parts = [(row.device_id, row.revision, row.counts) for row in buckets_of(session, fleet)]
        else:
            rows = session.query(CohortBucketRow).join(CohortRow).filter_by(fleet=fleet)
            parts = [(row.cohort_id, row.revision, row.counts) for row in rows]
    for owner, revision, packed in parts:
        sums[owner, revision] = sums[owner, revision] + unpack_counts(packed)
    return dict(sums)


def buckets_of(session, fleet):
    """Return the buckets of the devices of a fleet, the newest ones included."""
    return list(device_buckets(session, session.scalars(select(DeviceRow.id).filter_by(fleet=fleet)).all()))


def device_ids(database, fleet):
    with database.reading() as session:
        return {row.device: row.id for row in session.query(DeviceRow).filter_by(fleet=fleet)}


def grown(number, start, revision, uptime_s):
    """Return the report with this sequence number; no counter is lower than in those with lower numbers."""
    counts = (number + revision, 2 * number, 3 * number)
    report = report_of(DIGEST, sequence=number, counts=counts, revision=revision, start=f"{start:016x}")
    return msgspec.structs.replace(report, uptime_s=uptime_s)


def equal(sums, expected):
    return sums.keys() == expected.keys() and all(np.array_equal(sums[key], expected[key]) for key in sums)


@settings(max_examples=25, **CHECKS)
@given(data=st.data())
def test_buckets_contain_the_newest_counters_of_each_series_once(database, data):
    fleet = next(_fleets)
    addresses = [DeviceAddress(fleet, shard, name) for shard, name in (("s0", "a"), ("s0", "b"), ("s1", "c"))]
    sent = [
        with_counts(Uplink(address, grown(number, start, revision, 40_000.0 * number)))
        for address in addresses
        for start in (1, 2)
        for revision in (1, 2)
        for number in data.draw(st.sets(st.integers(1, 6), min_size=1))
    ]
    arrivals = data.draw(st.permutations(sent + data.draw(st.lists(st.sampled_from(sent), max_size=10))))
    store, now = BatchStore(IngestRules()), NOW
    while arrivals:
        size = data.draw(st.integers(1, 12))
        batch, arrivals = arrivals[:size], arrivals[size:]
        outcome = data.draw(st.sampled_from(["committed", "committed", "rolled back", "restarted"]))
        if outcome == "rolled back":  # the devices send the messages again
            with pytest.raises(ZeroDivisionError), database.writing() as session:
                store.store(session, batch, now=now).receipts.append(1 / 0)
            store.forget()
        elif outcome == "restarted":
            store = BatchStore(IngestRules())
        with database.writing() as session:
            receipts = store.store(session, batch, now=now).receipts
        assert {(r.address, r.start, n) for r in receipts for n in r.sequences} == {
            (u.address, u.message.start, u.message.sequence) for u in batch
        }
        now += timedelta(minutes=data.draw(st.sampled_from([0, 20])))

    ids, newest = device_ids(database, fleet), {}
    for uplink in sent:
        key = (uplink.address.device, uplink.message.start, uplink.message.revision)
        newest[key] = max(newest.get(key, uplink), uplink, key=lambda one: one.message.sequence)
    of_devices, of_cohort = defaultdict(lambda: 0), defaultdict(lambda: 0)
    with database.reading() as session:
        cohort_id = session.query(CohortRow).filter_by(fleet=fleet).one().id
    for (device, _, revision), uplink in newest.items():
        of_devices[ids[device], revision] = of_devices[ids[device], revision] + uplink.counts
        of_cohort[cohort_id, revision] = of_cohort[cohort_id, revision] + uplink.counts
    assert equal(sums_of(database, fleet, DeviceBucketRow), of_devices)
    assert equal(sums_of(database, fleet, CohortBucketRow), of_cohort)


@settings(max_examples=15, **CHECKS)
@given(data=st.data())
def test_totals_contain_each_audited_sample_once(database, bundle, data):
    fleet = next(_fleets)
    address = DeviceAddress(fleet, "s0", "a")
    every = []
    for audit in audits_of(bundle, 12, size=4):
        halves = split_audit(audit)
        every += [audit, *halves, *(part for half in halves for part in split_audit(half))]
    sent = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=20))
    size = data.draw(st.integers(1, 20))
    store = BatchStore(IngestRules())
    for first in range(0, len(sent), size):
        with database.writing() as session:
            store.store(session, [with_counts(Uplink(address, audit)) for audit in sent[first : first + size]], now=NOW)
    samples = {sample for audit in sent for sample in audit.samples}
    with database.reading() as session:
        device = session.query(DeviceRow).filter_by(fleet=fleet).one()
        rows = session.query(AuditedSampleRow).join(AuditRow).filter(AuditRow.device_id == device.id).all()
        [total] = session.query(AuditTotalRow).join(CohortRow).filter_by(fleet=fleet).all()
    disagreeing = sum(sample.disagrees for sample in samples)
    assert (len(rows), sum(row.disagrees for row in rows)) == (len(samples), disagreeing)
    assert (total.samples, total.disagreeing, total.writer) == (len(samples), disagreeing, "s0")
    assert device.audited_samples == len(samples)


def test_what_an_offline_device_has_counted_belongs_into_the_buckets_of_its_time(database):
    fleet = next(_fleets)
    address, day = DeviceAddress(fleet, "s0", "a"), 86400.0
    uptimes = (0.5 * day, 20 * day, 28.5 * day, 29 * day)  # the agent has run for 29 days
    uplinks = [with_counts(Uplink(address, grown(number + 1, 1, 1, uptime))) for number, uptime in enumerate(uptimes)]
    with database.writing() as session:
        store_uplinks(session, uplinks, now=NOW)
    with database.reading() as session:
        rows = sorted(buckets_of(session, fleet), key=lambda row: row.begin_s)
        buckets = [(row.width_s, row.begin_s, int(unpack_counts(row.counts)[1])) for row in rows]
    started = NOW.timestamp() - 29 * day
    assert [(width, counts) for width, _, counts in buckets] == [(86400, 2), (3600, 1), (900, 1), (900, 1)]
    assert all(
        begin % width == 0 and begin <= started + uptime < begin + width
        for (width, begin, _), uptime in zip(buckets, uptimes, strict=True)
    )


@pytest.mark.parametrize("uptime_s", [0.0, 1e9, 1e300])
def test_no_uptime_places_counts_outside_of_the_last_thirty_days(database, uptime_s):
    fleet = next(_fleets)
    address = DeviceAddress(fleet, "s0", "a")
    with database.writing() as session:
        store_uplinks(session, [with_counts(Uplink(address, grown(n, 1, 1, uptime_s * n))) for n in (1, 2)], now=NOW)
    with database.reading() as session:
        begins = [row.begin_s for row in buckets_of(session, fleet)]
    assert all(NOW.timestamp() - 31 * 86400 <= begin <= NOW.timestamp() for begin in begins)


def test_counters_that_decrease_add_nothing(database):
    fleet = next(_fleets)
    uplinks = [
        with_counts(Uplink(DeviceAddress(fleet, "s0", "a"), report))
        for report in (grown(9, 1, 1, 1.0), grown(3, 1, 1, 2.0))
    ]
    uplinks[1] = uplinks[1]._replace(message=msgspec.structs.replace(uplinks[1].message, sequence=10))
    with database.writing() as session:
        store_uplinks(session, uplinks, now=NOW)
    [counts] = sums_of(database, fleet, DeviceBucketRow).values()
    assert np.array_equal(counts, uplinks[0].counts)


def test_sums_stay_at_their_highest_value(database):
    fleet = next(_fleets)
    address, highest = DeviceAddress(fleet, "s0", "a"), 2**53
    with database.writing() as session:
        uplinks = [
            with_counts(Uplink(address, report_of(DIGEST, sequence=1, counts=(highest, 0, 0), start=f"{n:016x}")))
            for n in range(1100)
        ]
        store_uplinks(session, uplinks, now=NOW)
        store_uplinks(session, [uplinks[0]._replace(address=address._replace(device="b"))], now=NOW)
    [counts] = sums_of(database, fleet, CohortBucketRow).values()
    assert counts.max() == 2**62 - 1


def test_reports_of_an_expired_series_are_acknowledged_and_counted_as_drops(database):
    fleet = next(_fleets)
    address = DeviceAddress(fleet, "s0", "a")
    with database.writing() as session:
        store_uplinks(session, [with_counts(Uplink(address, grown(1, 1, 1, 1.0)))], now=NOW)
        key = session.execute(select(SeriesRow.device_id, SeriesRow.start, SeriesRow.revision)).all()
        assert expire_series(session, [tuple(row) for row in key], before=NOW + timedelta(days=1)) == 1
    before = sums_of(database, fleet, DeviceBucketRow)
    with database.writing() as session:
        stored = store_uplinks(session, [with_counts(Uplink(address, grown(2, 1, 1, 1.0)))], now=NOW)
    assert [(receipt.sequences, drop.cause) for receipt, drop in zip(*stored, strict=True)] == [((2,), "expired")]
    assert equal(sums_of(database, fleet, DeviceBucketRow), before)


def test_what_a_clone_sends_is_stored_and_not_counted(database, bundle):
    fleet = next(_fleets)
    address = DeviceAddress(fleet, "s0", "a")
    starts = ("1" * 16, "2" * 16, "1" * 16)
    states = [state_of(bundle.digest, start=start, uptime_s=n + 1.0) for n, start in enumerate(starts)]
    [audit] = audits_of(bundle, 3)
    report = msgspec.structs.replace(grown(1, 1, 1, 1.0), bundle=bundle.digest)
    store = BatchStore(IngestRules())
    with database.writing() as session:
        store.store(session, [with_counts(Uplink(address, state)) for state in states], now=NOW)
        store.store(session, [with_counts(Uplink(address, audit)), with_counts(Uplink(address, report))], now=NOW)
    with database.reading() as session:
        device_id = session.query(DeviceRow).filter_by(fleet=fleet).one().id
        samples = session.query(AuditedSampleRow).join(AuditRow).filter_by(device_id=device_id).all()
        totals = session.query(AuditTotalRow).join(CohortRow).filter_by(fleet=fleet).all()
    assert [sample.counted for sample in samples] == [False] * 3
    assert totals == []
    assert len(sums_of(database, fleet, DeviceBucketRow)) == 1
    assert sums_of(database, fleet, CohortBucketRow) == {}


def test_what_another_process_decides_about_a_device_holds_for_the_next_batch(database):
    fleet = next(_fleets)
    address = DeviceAddress(fleet, "s0", "a")
    store = BatchStore(IngestRules())
    with database.writing() as session:
        store.store(session, [with_counts(Uplink(address, grown(1, 1, 1, 1.0)))], now=NOW)
    with database.writing() as session:
        session.execute(update(DeviceRow).where(DeviceRow.fleet == fleet).values(revoked_at=NOW))
    with database.writing() as session:
        revoked = store.store(session, [with_counts(Uplink(address, grown(2, 1, 1, 1.0)))], now=NOW)
    with database.writing() as session:
        session.execute(update(DeviceRow).where(DeviceRow.fleet == fleet).values(revoked_at=None))
    with database.writing() as session:
        approved = store.store(session, [with_counts(Uplink(address, grown(3, 1, 1, 1.0)))], now=NOW)
    assert [drop.cause for drop in revoked.drops] == ["revoked"]
    assert [receipt.sequences for receipt in approved.receipts] == [(3,)]


def test_reports_update_the_time_of_a_device_once_a_minute_and_its_losses_at_once(database):
    fleet = next(_fleets)
    address = DeviceAddress(fleet, "s0", "a")
    store, seen, losses = BatchStore(IngestRules()), [], []
    for number, seconds in enumerate((0, 30, 59, 60, 61)):
        now = NOW + timedelta(seconds=seconds)
        report = msgspec.structs.replace(grown(number, 1, 1, 1.0), losses=Losses(full=number))
        with database.writing() as session:
            store.store(session, [with_counts(Uplink(address, report))], now=now)
        with database.reading() as session:
            row = session.query(DeviceRow).filter_by(fleet=fleet).one()
            seen.append((row.last_seen - NOW).total_seconds())
            losses.append(row.losses.get("full", 0))
    assert seen == [0, 0, 0, 60, 60]
    assert losses == [0, 1, 2, 3, 4]


def test_new_shards_are_registered(database):
    fleet = next(_fleets)
    with database.writing() as session:
        uplinks = [
            with_counts(Uplink(DeviceAddress(fleet, shard, "a"), grown(1, 1, 1, 1.0))) for shard in ("s1", "s0", "s1")
        ]
        store_uplinks(session, uplinks, now=NOW)
    with database.reading() as session:
        assert {row.shard for row in session.query(ShardRow).filter_by(fleet=fleet)} == {"s0", "s1"}


def test_devices_of_an_unregistered_cohort_may_disagree_about_the_number_of_exits(database):
    fleet = next(_fleets)
    reports = [report_of(DIGEST, sequence=1, counts=counts) for counts in ((1, 2, 3), (1, 2), (1, 2, 3, 4))]
    for number, report in enumerate(reports):
        with database.writing() as session:
            store_uplinks(session, [with_counts(Uplink(DeviceAddress(fleet, "s0", f"d{number}"), report))], now=NOW)
    [counts] = sums_of(database, fleet, CohortBucketRow).values()
    assert counts[1:-1:62].tolist() == [3, 6, 6, 4]

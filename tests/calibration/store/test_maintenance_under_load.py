"""Messages are stored while the same buckets are merged: every sum stays exact."""

import random
import threading
from datetime import datetime, timedelta, timezone

import msgspec
from edgeexit_calibration import DatabaseError
from edgeexit_calibration.ingest.batch_store import BatchStore
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.counts import counts_of, sum_counts, unpack_counts
from edgeexit_calibration.store.errors import is_contention
from edgeexit_calibration.store.maintenance import maintain
from edgeexit_calibration.store.open_buckets import device_buckets
from edgeexit_calibration.store.retention import Retention
from edgeexit_calibration.store.tables import CohortBucketRow, DeviceRow
from sqlalchemy import select

from edgeexit.wire import DeviceAddress
from tests.calibration.scenario import report_of, with_counts

DIGEST = "b" * 64
FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)
STEP = timedelta(hours=6)
DEVICES, BATCHES, DAY_S = 4, 64, 86400


class _Fleet:
    """Devices whose agents run for 20 days and report late, in any order of time."""

    def __init__(self):
        self.random = random.Random(7)  # noqa: S311 - no secret
        self.newest = {}
        self.sequence = 0

    def batch(self):
        for number in range(DEVICES):
            for _ in range(self.random.randint(1, 3)):
                device, revision = DeviceAddress("shop", f"s{number % 2}", f"d{number}"), self.random.randint(1, 2)
                self.sequence += 1
                counts = tuple(self.sequence * (place + 1) for place in range(3))
                report = report_of(DIGEST, sequence=self.sequence, counts=counts, revision=revision)
                uptime_s = self.random.choice([0.0, 20.0, self.random.uniform(0, 20)]) * DAY_S
                report = msgspec.structs.replace(report, uptime_s=uptime_s)
                self.newest[device.device, revision] = counts_of(report).tolist()
                yield Uplink(device, report)


def _sums(database):
    """Return the sums of the buckets of each device and revision, and of the cohort under each revision."""
    with database.reading() as session:
        devices, cohort = {}, {}
        names = dict(session.execute(select(DeviceRow.id, DeviceRow.device)).all())
        for bucket in device_buckets(session, list(names)):
            devices.setdefault((names[bucket.device_id], bucket.revision), []).append(bucket.counts)
        for revision, packed in session.execute(select(CohortBucketRow.revision, CohortBucketRow.counts)):
            cohort.setdefault(revision, []).append(packed)
    return tuple(
        {key: unpack_counts(sum_counts(parts)).tolist() for key, parts in of.items()} for of in (devices, cohort)
    )


def _merge(database, now, errors):
    try:
        return maintain(database, Retention(), now=now).merged_buckets
    except DatabaseError as error:
        if not is_contention(error):
            errors.append(error)
        return 0


def test_sums_are_exact_while_two_processes_merge_the_buckets_that_a_third_one_adds_to(database):
    fleet, store, now, done = _Fleet(), BatchStore(IngestRules()), [FIRST], threading.Event()
    merged, errors, passes = [], [], threading.Semaphore(0)

    def merge():
        while not done.is_set():
            merged.append(_merge(database, now[0], errors))
            passes.release()

    threads = [threading.Thread(target=merge) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(BATCHES):
            with database.writing() as session:
                store.store(session, [with_counts(uplink) for uplink in fleet.batch()], now=now[0])
            now[0] += STEP
            if number % 4 == 0:  # so that neither side is alone for long
                assert passes.acquire(timeout=60)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert sum(merged) > 0
    of_devices, of_cohort = _sums(database)
    assert of_devices == fleet.newest
    for revision, found in of_cohort.items():
        newest = [counts for (_, number), counts in fleet.newest.items() if number == revision]
        assert found == [sum(column) for column in zip(*newest, strict=True)]
    maintain(database, Retention(), now=now[0] + timedelta(days=40))
    assert _sums(database) == (of_devices, of_cohort)

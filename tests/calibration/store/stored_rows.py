"""Rows for tests of the storage: devices, cohorts, buckets, series, audits and their samples."""

from datetime import datetime, timezone

import numpy as np
from edgeexit_calibration.store.counts import pack_counts, sum_counts, unpack_counts
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditRow,
    CohortBucketRow,
    CohortRow,
    DeviceBucketRow,
    DeviceRow,
    PolicyRevisionRow,
    SeriesRow,
)
from sqlalchemy import select

from edgeexit.wire.counter_array import width_of

EXITS = 3
NOW = datetime(2026, 5, 20, 12, 34, tzinfo=timezone.utc)
DAY_S = 86400


def add_fleet(database, *, devices=2, cohorts=1):
    """Add devices and cohorts with the ids 1, 2, ..."""
    with database.writing() as session:
        for number in range(1, cohorts + 1):
            session.add(CohortRow(id=number, fleet="shop", bundle="b", cohort=f"c{number}"))
        for number in range(1, devices + 1):
            session.add(
                DeviceRow(id=number, fleet="shop", shard="s0", device=f"d{number}", first_seen=NOW, last_seen=NOW)
            )


def packed(**values):
    """Return packed counts of three exits; `n5=7` is the number 7 at index 5."""
    counts = np.zeros(width_of(EXITS), np.int64)
    for name, value in values.items():
        counts[int(name[1:])] = value
    return pack_counts(counts)


def device_bucket(begin_s, *, width_s=900, device=1, revision=1, cohort=1, counts=None):
    return DeviceBucketRow(
        device_id=device,
        width_s=width_s,
        begin_s=int(begin_s) // width_s * width_s,
        revision=revision,
        cohort_id=cohort,
        counts=counts or packed(n0=1),
    )


def cohort_bucket(begin_s, *, width_s=900, revision=1, cohort=1, writer="", counts=None):
    return CohortBucketRow(
        cohort_id=cohort,
        width_s=width_s,
        begin_s=int(begin_s) // width_s * width_s,
        revision=revision,
        writer=writer,
        counts=counts or packed(n0=1),
    )


def sums(database, table):
    """Return the sum of the counts of each owner and revision, over buckets of all lengths."""
    with database.reading() as session:
        found = {}
        for row in session.scalars(select(table)):
            owner = row.device_id if table is DeviceBucketRow else (row.cohort_id, row.writer)
            found.setdefault((owner, row.revision, row.cohort_id), []).append(row.counts)
    return {key: unpack_counts(sum_counts(parts)).tolist() for key, parts in found.items()}


def widths(database, table):
    """Return how many buckets there are of each length."""
    with database.reading() as session:
        found = session.scalars(select(table.width_s)).all()
    return {width: found.count(width) for width in sorted(set(found))}


def audit(number, received_at, *, samples=1, revision=1, cohort=1, device=1):
    """Return an audit and its samples."""
    row = AuditRow(id=number, device_id=device, start="0" * 16, sequence=number, received_at=received_at)
    of_audit = [
        AuditedSampleRow(
            audit_id=number,
            cohort_id=cohort,
            revision=revision,
            exits=EXITS,
            exit=0,
            disagrees=False,
            readouts=bytes(48),
            label=None,
        )
        for _ in range(samples)
    ]
    return [row], of_audit


def series(start, received_at, *, device=1, counts=None, base=None, begin_s=0):
    return SeriesRow(
        device_id=device,
        start=start,
        revision=1,
        cohort_id=1,
        sequence=1,
        counts=counts,
        width_s=900,
        begin_s=int(begin_s) // 900 * 900,
        base=base,
        started_at=received_at.timestamp(),
        received_at=received_at,
    )


def policy(revision, *, cohort=1):
    return PolicyRevisionRow(
        cohort_id=cohort, revision=revision, document="{}", reason="", created_by="", created_at=NOW, published_at=None
    )

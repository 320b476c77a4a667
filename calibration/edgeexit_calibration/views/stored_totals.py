"""What the database holds of each device of a fleet, summed up so that it can be compared with what devices sent."""

from collections import defaultdict
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit.wire import State
from edgeexit.wire.counter_array import Counts
from edgeexit_calibration.store.counts import sum_counts, unpack_counts
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.open_buckets import device_buckets
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditRow,
    CohortBucketRow,
    CohortRow,
    DeviceRow,
    FleetRow,
    SeriesRow,
)

_BLOCK: Final = 500


class StoredSeries(NamedTuple):
    """The newest report of a (start, revision)."""

    sequence: int
    counts: Counts | None
    """[62 K + 1]; None: expired."""


class StoredAudits(NamedTuple):
    """Sums over the stored audits of a start."""

    audits: int
    sequences: int
    """Sum of the sequence numbers."""
    samples: int
    exits: int
    """Sum over the samples of the index of the exit."""


class StoredDevice(NamedTuple):
    """What the database holds of a device."""

    start: str | None
    """Of the newest state; None before the first one."""
    revision: int | None
    online: bool | None
    series: dict[tuple[str, int], StoredSeries]
    """(start, revision) -> the newest report."""
    buckets: dict[int, Counts]
    """Revision -> sum of the buckets."""
    audits: dict[str, StoredAudits]
    """Start -> sums of its audits."""
    drops: dict[str, int]
    """Cause -> messages that were not stored."""


class StoredFleet(NamedTuple):
    """What the database holds of a fleet."""

    devices: dict[str, StoredDevice]
    """SHARD/DEVICE -> what it holds."""
    cohorts: dict[tuple[str, str], Counts]
    """(bundle, cohort) -> sum of the buckets of all revisions."""
    drops: dict[str, int]
    """Cause -> messages of no known device that were not stored."""


def stored_fleet(database: Database, fleet: str) -> StoredFleet:
    """Return what the database holds of a fleet, in one consistent state."""
    with database.reading() as session:
        names = _devices(session, fleet)
        devices = dict(names.values())
        by_id = {device_id: devices[name] for device_id, (name, _) in names.items()}
        ids = sorted(by_id)
        for begin in range(0, len(ids), _BLOCK):
            part = ids[begin : begin + _BLOCK]
            _add_series(session, by_id, part)
            _add_buckets(session, by_id, part)
            _add_audits(session, by_id, part)
        row = session.get(FleetRow, fleet)
        return StoredFleet(devices, _cohorts(session, fleet), {} if row is None else dict(row.drops))


def _devices(session: Session, fleet: str) -> dict[int, tuple[str, StoredDevice]]:
    columns = select(DeviceRow.id, DeviceRow.shard, DeviceRow.device, DeviceRow.state, DeviceRow.drops)
    found = {}
    for device_id, shard, device, content, drops in session.execute(columns.filter_by(fleet=fleet)):
        state = None if content is None else msgspec.json.decode(content, type=State)
        stored = StoredDevice(
            start=None if state is None else state.start,
            revision=None if state is None else state.revision,
            online=None if state is None else state.online,
            series={},
            buckets={},
            audits={},
            drops=dict(drops),
        )
        found[device_id] = f"{shard}/{device}", stored
    return found


def _add_series(session: Session, devices: dict[int, StoredDevice], ids: list[int]) -> None:
    columns = select(
        SeriesRow.device_id, SeriesRow.start, SeriesRow.revision, SeriesRow.sequence, SeriesRow.counts
    ).where(SeriesRow.device_id.in_(ids))
    for device_id, start, revision, sequence, counts in session.execute(columns):
        stored = StoredSeries(sequence, None if counts is None else unpack_counts(counts))
        devices[device_id].series[start, revision] = stored


def _add_buckets(session: Session, devices: dict[int, StoredDevice], ids: list[int]) -> None:
    parts: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
    for bucket in device_buckets(session, ids):
        parts[bucket.device_id, bucket.revision].append(bucket.counts)
    for (device_id, revision), found in parts.items():
        devices[device_id].buckets[revision] = unpack_counts(sum_counts(found))


def _add_audits(session: Session, devices: dict[int, StoredDevice], ids: list[int]) -> None:
    key = AuditRow.device_id, AuditRow.start
    audits = select(*key, func.count(), func.sum(AuditRow.sequence)).where(AuditRow.device_id.in_(ids)).group_by(*key)
    samples = (
        select(*key, func.count(), func.sum(AuditedSampleRow.exit))
        .join(AuditedSampleRow, AuditedSampleRow.audit_id == AuditRow.id)
        .where(AuditRow.device_id.in_(ids))
        .group_by(*key)
    )
    counted = {(row[0], row[1]): (int(row[2]), int(row[3])) for row in session.execute(samples)}
    for device_id, start, number, sequences in session.execute(audits):
        found = StoredAudits(number, int(sequences), *counted.get((device_id, start), (0, 0)))
        devices[device_id].audits[start] = found


def _cohorts(session: Session, fleet: str) -> dict[tuple[str, str], Counts]:
    columns = select(CohortRow.bundle, CohortRow.cohort, CohortBucketRow.counts).join(
        CohortBucketRow, CohortBucketRow.cohort_id == CohortRow.id
    )
    parts: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)
    for bundle, cohort, packed in session.execute(columns.where(CohortRow.fleet == fleet)):
        parts[bundle, cohort].append(packed)
    return {key: unpack_counts(sum_counts(found)) for key, found in parts.items()}

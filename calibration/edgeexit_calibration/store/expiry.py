"""Deletes what the database need not keep any longer, a few rows in each transaction.

Ids of audits and events increase in the order of arrival, so the oldest ones are found without an index of times.
"""

from collections import defaultdict
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, CursorResult, Select, and_, delete, exists, func, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from edgeexit_calibration.store.cohorts import EventKind
from edgeexit_calibration.store.open_buckets import open_buckets
from edgeexit_calibration.store.roll_up import add_counts
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditRow,
    DeviceBucketRow,
    EventRow,
    SeriesRow,
)

KEPT_SAMPLES: Final = 20_000
"""The newest audited samples of a cohort, from which its next policies are chosen, are kept whatever their age."""
_OBSERVATIONS: Final[tuple[EventKind, ...]] = ("risk exceeded", "refit postponed", "key changed", "clone")
"""Events that are no decisions. Of each kind, the newest one about a cohort or a device is kept, too."""
_MAX_ROWS: Final = 1000
_MAX_SERIES: Final = 250
"""Series that one transaction lets expire: as many buckets as it may merge."""


class SampleBounds(NamedTuple):
    """Which audited samples of a cohort may be deleted."""

    cohort_id: int
    oldest_of_cap: int
    """Samples with a lower id are more than the cohort may have."""
    newest_of_age: int
    """Samples with a lower id are not among the newest ones."""
    first_young_audit: int
    """Samples of audits with a lower id are too old."""


def first_audit_since(session: Session, time: datetime) -> int:
    """Return the lowest id of the audits that arrived since a time; one above the highest id if there is none."""
    return _first_since(session, AuditRow.id, AuditRow.received_at, time)


def first_event_since(session: Session, time: datetime) -> int:
    """Return the lowest id of the events since a time; one above the highest id if there is none."""
    return _first_since(session, EventRow.id, EventRow.time, time)


def sample_bounds(
    session: Session, cohort_id: int, *, first_young_audit: int, max_samples: int, kept: int = KEPT_SAMPLES
) -> SampleBounds:
    """Return which samples of a cohort may be deleted."""
    return SampleBounds(
        cohort_id=cohort_id,
        oldest_of_cap=_newest(session, cohort_id, max_samples),
        newest_of_age=_newest(session, cohort_id, kept),
        first_young_audit=first_young_audit,
    )


def old_samples(bounds: SampleBounds) -> ColumnElement[bool]:
    """Return the condition for the samples that may be deleted."""
    too_old = and_(AuditedSampleRow.id < bounds.newest_of_age, AuditedSampleRow.audit_id < bounds.first_young_audit)
    return and_(
        AuditedSampleRow.cohort_id == bounds.cohort_id, or_(AuditedSampleRow.id < bounds.oldest_of_cap, too_old)
    )


def delete_samples(session: Session, bounds: SampleBounds, *, max_rows: int = _MAX_ROWS) -> int:
    """Delete the oldest samples of a cohort that may be deleted; return how many."""
    query = select(AuditedSampleRow.id).where(old_samples(bounds))
    found = session.scalars(query.order_by(AuditedSampleRow.id).limit(max_rows)).all()
    return _count(session.execute(delete(AuditedSampleRow).where(AuditedSampleRow.id.in_(found))))


def delete_audits(session: Session, *, before_id: int, after_id: int = 0, max_rows: int = _MAX_ROWS) -> tuple[int, int]:
    """Delete the numbers of audits without samples, from an id on; return how many, and the last id it looked at."""
    query = select(AuditRow.id).where(AuditRow.id > after_id, AuditRow.id < before_id)
    found = session.scalars(query.order_by(AuditRow.id).limit(max_rows)).all()
    if not found:
        return 0, before_id
    without_samples = ~exists().where(AuditedSampleRow.audit_id == AuditRow.id)
    deleted = session.execute(delete(AuditRow).where(AuditRow.id.in_(found), without_samples))
    return _count(deleted), found[-1]


def old_events(before_id: int) -> Select[int]:
    """Return the query for the ids of the events that may be deleted, the oldest first."""
    newer = aliased(EventRow)
    same = and_(
        newer.kind == EventRow.kind,
        newer.id > EventRow.id,
        or_(newer.cohort_id == EventRow.cohort_id, newer.device_id == EventRow.device_id),
    )
    query = select(EventRow.id).where(EventRow.id < before_id, EventRow.kind.in_(_OBSERVATIONS), exists().where(same))
    return query.order_by(EventRow.id)


def delete_events(session: Session, *, before_id: int, max_rows: int = _MAX_ROWS) -> int:
    """Delete the oldest events that are no decisions; return how many."""
    found = session.scalars(old_events(before_id).limit(max_rows)).all()
    return _count(session.execute(delete(EventRow).where(EventRow.id.in_(found))))


def idle_series(session: Session, *, before: datetime, devices: range) -> list[tuple[int, str, int]]:
    """Return the keys of the series of some devices that have counters and got no report since a time."""
    query = select(SeriesRow.device_id, SeriesRow.start, SeriesRow.revision).where(
        SeriesRow.device_id.between(devices.start, devices.stop - 1),
        SeriesRow.counts.is_not(None),
        SeriesRow.received_at < before,
    )
    return sorted((row[0], row[1], row[2]) for row in session.execute(query.limit(_MAX_SERIES)))


def forgotten_series(session: Session, *, before: datetime, devices: range) -> list[tuple[int, str, int]]:
    """Return the keys of the series of some devices whose counters have expired and that got no report since a time."""
    query = select(SeriesRow.device_id, SeriesRow.start, SeriesRow.revision).where(
        SeriesRow.device_id.between(devices.start, devices.stop - 1),
        SeriesRow.counts.is_(None),
        SeriesRow.received_at < before,
    )
    return sorted((row[0], row[1], row[2]) for row in session.execute(query.limit(_MAX_ROWS)))


def expire_series(session: Session, keys: list[tuple[int, str, int]], *, before: datetime) -> int:
    """Remove the counters of series, unless a report has arrived meanwhile; return how many.

    Their newest buckets become rows of their own. On PostgreSQL, rows that another process has locked wait.
    """
    is_idle = and_(_key_in(keys), SeriesRow.received_at < before, SeriesRow.counts.is_not(None))
    key = SeriesRow.device_id, SeriesRow.start, SeriesRow.revision
    locking = select(*key).where(is_idle).order_by(*key).with_for_update(skip_locked=True)
    locked = [(row[0], row[1], row[2]) for row in session.execute(locking)]
    parts: defaultdict[tuple[int, ...], list[bytes]] = defaultdict(list)
    for *bucket, counts in open_buckets(session, _key_in(locked)):
        parts[tuple(bucket)].append(counts)
    if parts:
        add_counts(session, DeviceBucketRow, dict(sorted(parts.items())))
    changing = update(SeriesRow).where(_key_in(locked)).values(counts=None, base=None)
    return _count(session.execute(changing.execution_options(synchronize_session=False)))


def delete_series(session: Session, keys: list[tuple[int, str, int]], *, before: datetime) -> int:
    """Delete series, unless a report has arrived meanwhile; return how many."""
    deleting = delete(SeriesRow).where(_key_in(keys), SeriesRow.received_at < before, SeriesRow.counts.is_(None))
    return _count(session.execute(deleting.execution_options(synchronize_session=False)))


def _key_in(keys: list[tuple[int, str, int]]) -> Any:
    return tuple_(SeriesRow.device_id, SeriesRow.start, SeriesRow.revision).in_(keys)


def _newest(session: Session, cohort_id: int, count: int) -> int:
    """Return the lowest id of the newest `count` samples of a cohort, or 0 if it has no more than these."""
    ids = select(AuditedSampleRow.id).filter_by(cohort_id=cohort_id)
    lowest, highest = session.execute(
        select(func.min(AuditedSampleRow.id), func.max(AuditedSampleRow.id)).filter_by(cohort_id=cohort_id)
    ).one()
    if lowest is None or highest - lowest < count:
        return 0
    return session.scalar(ids.order_by(AuditedSampleRow.id.desc()).offset(count - 1).limit(1)) or 0


def _first_since(session: Session, ids: Any, times: Any, time: datetime) -> int:
    """Return the lowest id whose row is not older than `time`, by bisection."""
    highest = session.scalar(select(func.max(ids))) or 0
    low, high = session.scalar(select(func.min(ids))) or 1, highest + 1
    while low < high:
        middle = (low + high) // 2
        row = session.execute(select(ids, times).where(ids >= middle).order_by(ids).limit(1)).one_or_none()
        if row is None or row[1] >= time:
            high = middle
        else:
            low = row[0] + 1
    return low


def _count(result: Any) -> int:
    """Return the number of changed rows."""
    return result.rowcount if isinstance(result, CursorResult) else 0

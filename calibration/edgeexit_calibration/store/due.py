"""Counts what maintenance would do now, without doing it."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.expiry import (
    first_audit_since,
    first_event_since,
    old_events,
    old_samples,
    sample_bounds,
)
from edgeexit_calibration.store.maintenance import MaintenanceResult
from edgeexit_calibration.store.retention import DAY_S, Merge, Retention, cohort_merges, device_merges
from edgeexit_calibration.store.roll_up import Buckets
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditRow,
    CohortBucketRow,
    CohortRow,
    DeviceBucketRow,
    SeriesRow,
)


def due_maintenance(database: Database, retention: Retention, *, now: datetime) -> MaintenanceResult:
    """Return the numbers of rows that `maintenance.maintain` would change now; without the limit of the size.

    The newest buckets of series that expire, which then may be merged, too, are not among them.
    """
    with database.reading() as session:
        samples = audits = 0
        young = first_audit_since(session, now - timedelta(days=retention.samples_days))
        for cohort_id in session.scalars(select(CohortRow.id)).all():
            bounds = sample_bounds(session, cohort_id, first_young_audit=young, max_samples=retention.max_samples)
            samples += _count(session, AuditedSampleRow, old_samples(bounds))
        without_samples = ~exists().where(AuditedSampleRow.audit_id == AuditRow.id)
        first = first_audit_since(session, now - timedelta(days=retention.numbers_days))
        audits = _count(session, AuditRow, AuditRow.id < first, without_samples)
        first_event = first_event_since(session, now - timedelta(days=retention.events_days))
        idle, forgotten = (now - timedelta(days=days) for days in (retention.series_days, retention.numbers_days))
        oldest_s = int(now.timestamp()) - retention.device_days_days * DAY_S
        return MaintenanceResult(
            merged_buckets=_merged(session, DeviceBucketRow, device_merges(retention, now_s=now.timestamp()))
            + _merged(session, CohortBucketRow, cohort_merges(retention, now_s=now.timestamp())),
            deleted_buckets=_count(session, DeviceBucketRow, DeviceBucketRow.begin_s < oldest_s),
            deleted_samples=samples,
            deleted_audits=audits,
            deleted_events=session.scalar(select(func.count()).select_from(old_events(first_event).subquery())) or 0,
            expired_series=_count(session, SeriesRow, SeriesRow.counts.is_not(None), SeriesRow.received_at < idle),
            deleted_series=_count(session, SeriesRow, SeriesRow.received_at < forgotten),
        )


def _merged(session: Session, table: Buckets, merges: tuple[Merge, ...]) -> int:
    is_due = (((table.width_s == one.narrow_s) & (table.begin_s < one.before_s)) for one in merges)
    return _count(session, table, or_(*is_due))


def _count(session: Session, table: Any, *conditions: Any) -> int:
    return session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0

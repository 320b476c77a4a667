"""Keeps a database below a maximum size: deletes the oldest buckets of devices, then the oldest audited samples.

Buckets of the last day, and the samples that the policies need, stay. What deleted rows leave is used again; the file
itself shrinks only with `edgeexit calibrator vacuum`.
"""

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.database_size import file_bytes, used_bytes
from edgeexit_calibration.store.expiry import KEPT_SAMPLES, delete_samples, sample_bounds
from edgeexit_calibration.store.process_tables import MaintenanceRow
from edgeexit_calibration.store.retention import WIDTHS_S
from edgeexit_calibration.store.roll_up import delete_oldest
from edgeexit_calibration.store.small_steps import step
from edgeexit_calibration.store.tables import CohortRow, DeviceBucketRow

_log = logging.getLogger(__name__)

_NAME: Final = "size"
"""Name of the row with the `SizeReport`."""
_BYTES_OF_SAMPLE: Final = 200
_ALL: Final = 2**62


class SizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The size of the database and its limit, at the last check."""

    used_bytes: int
    max_bytes: int
    is_over: bool
    """Whether what may be deleted did not suffice."""
    checked_at: datetime


class Deleted(NamedTuple):
    """What one step deleted."""

    buckets: int = 0
    samples: int = 0


def size_report(session: Session) -> SizeReport | None:
    """Return the size at the last check, or None if it is not limited."""
    row = session.get(MaintenanceRow, _NAME)
    return None if row is None else msgspec.convert(row.details, SizeReport)


def forget_size(session: Session) -> None:
    """Delete the size of an earlier check, because there is no limit any longer."""
    session.execute(delete(MaintenanceRow).filter_by(name=_NAME))


def limit_size(database: Database, max_bytes: int, *, now: datetime) -> Iterator[Deleted]:
    """Delete until the database is estimated to be small enough; yield after each transaction."""
    if not database.is_sqlite:
        yield from _analyze(database, max_bytes)
    with database.reading() as session:
        used = used_bytes(session)
        cohorts = session.scalars(select(CohortRow.id).order_by(CohortRow.id)).all()
    yield Deleted()
    excess = used - max_bytes
    for width_s in WIDTHS_S[:0:-1]:  # the longest ones are the oldest ones
        while excess > 0:
            with step(database) as session:
                oldest = delete_oldest(session, DeviceBucketRow, before_s=_ALL, width_s=width_s)
            excess -= oldest.bytes
            yield Deleted(buckets=oldest.rows)
            if not oldest.rows:
                break
    for cohort_id in cohorts:
        while excess > 0:
            with step(database) as session:
                bounds = sample_bounds(session, cohort_id, first_young_audit=_ALL, max_samples=_ALL, kept=KEPT_SAMPLES)
                samples = delete_samples(session, bounds)
            excess -= samples * _BYTES_OF_SAMPLE
            yield Deleted(samples=samples)
            if not samples:
                break
    report = SizeReport(used_bytes=used, max_bytes=max_bytes, is_over=excess > 0, checked_at=now)
    if report.is_over:
        _log.warning(
            "database '%s' has %.3g GB, more than its limit of %.3g GB, and nothing more may be deleted; raise it",
            database.name,
            used / 1e9,
            max_bytes / 1e9,
        )
    with step(database) as session:
        session.merge(MaintenanceRow(name=_NAME, details=msgspec.to_builtins(report), updated_at=now))
    yield Deleted()


def _analyze(database: Database, max_bytes: int) -> Iterator[Deleted]:
    """Update the statistics of PostgreSQL if the database may be too large."""
    with database.reading() as session:
        may_be_over = file_bytes(session) > max_bytes
    if may_be_over:
        with step(database) as session:
            session.execute(text("ANALYZE"))
    yield Deleted()

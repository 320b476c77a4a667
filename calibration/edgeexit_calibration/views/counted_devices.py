"""Which devices of a cohort count now, in audits of forgers and in costs.

They count (see `enrolment.is_counted`), are not set aside, and were seen lately.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from edgeexit_calibration.ingest.enrolment import Enrolment
from edgeexit_calibration.store.tables import DeviceRow

_SEEN_WITHIN: Final = timedelta(days=30)


def seen_lately(cohort_id: int, *, now: datetime) -> list[ColumnElement[bool]]:
    """Return the conditions under which a `DeviceRow` is in the cohort, not revoked, and was seen lately."""
    return [
        DeviceRow.cohort_id == cohort_id,
        DeviceRow.revoked_at.is_(None),
        DeviceRow.last_seen > now - _SEEN_WITHIN,
    ]


def counts_now(cohort_id: int, enrolment: Enrolment, *, now: datetime) -> list[ColumnElement[bool]]:
    """Return the conditions under which a `DeviceRow` is a device of the cohort that counts and was seen lately."""
    conditions = [
        *seen_lately(cohort_id, now=now),
        DeviceRow.clone_seen_at.is_(None),
        or_(DeviceRow.set_aside_at.is_(None), DeviceRow.decided_cohort_id != cohort_id),
    ]
    return [*conditions, DeviceRow.key.is_not(None)] if enrolment == "approve" else conditions


def number_of_counted(session: Session, cohort_id: int, enrolment: Enrolment, *, now: datetime, limit: int) -> int:
    """Return the number of devices of a cohort that count and were seen lately, or `limit`."""
    counted = select(DeviceRow.id).where(*counts_now(cohort_id, enrolment, now=now)).limit(limit)
    return session.scalar(select(func.count()).select_from(counted.subquery())) or 0

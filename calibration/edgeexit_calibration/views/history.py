"""Read-only views of what happened: a cohort's policies, and the audit log of cohorts and devices; the newest entries.

The newest ones are those with the highest ids, so an old database answers as fast as a new one.
"""

from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from edgeexit.policies import AuditRule, Certificate, decode_document
from edgeexit_calibration.store.cohorts import CohortAddress, find_cohort
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import DeviceRow, EventRow, PolicyRevisionRow
from edgeexit_calibration.views.names import find_named_device

NEWEST: Final = 1000
"""Entries that are returned unless another number is requested."""


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """A revision of a cohort's policy, and why it was created."""

    revision: int
    policy: str
    temperatures: tuple[float, ...]
    thresholds: tuple[float | None, ...]
    certificate: Certificate | None
    audit: AuditRule | None = None
    """null: each device audits its own fraction."""
    reason: str
    created_by: str
    created_at: datetime
    published_at: datetime | None
    """null: not published yet."""


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit log."""

    device: str | None = None
    """FLEET/SHARD/DEVICE; null for an event of a cohort."""

    time: datetime
    actor: str
    kind: str
    details: dict[str, Any]


def policy_history(
    database: Database, cohort: CohortAddress, *, since: datetime | None = None, limit: int = NEWEST
) -> list[PolicyView]:
    """Return a cohort's newest policy revisions that were created at `since` or later, oldest first."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return []
        query = select(PolicyRevisionRow).filter_by(cohort_id=found.id)
        rows = session.scalars(query.order_by(PolicyRevisionRow.revision.desc()).limit(limit)).all()
    return [_policy_view(row) for row in reversed(rows) if since is None or row.created_at >= since]


def events(
    database: Database, cohort: CohortAddress, *, since: datetime | None = None, limit: int = NEWEST
) -> list[EventView]:
    """Return the newest entries of a cohort's audit log that were made at `since` or later, oldest first."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return []
        query = select(EventRow, DeviceRow).outerjoin(DeviceRow, EventRow.device_id == DeviceRow.id)
        return _newest(session, query.where(EventRow.cohort_id == found.id), since, limit)


def device_events(
    database: Database,
    *,
    fleet: str | None = None,
    device: str | None = None,
    since: datetime | None = None,
    limit: int = NEWEST,
) -> list[EventView]:
    """Return the newest entries of the audit log about devices that were made at `since` or later, oldest first.

    Args:
        database: contains the log.
        fleet: None: devices of all fleets.
        device: only this one: `DEVICE`, `SHARD/DEVICE` or `FLEET/SHARD/DEVICE`; None: all devices.
        since: None: all times.
        limit: maximum number of entries.

    Raises NameLookupError if there is no such device, or more than one, and DatabaseError.

    """
    with database.reading() as session:
        query = select(EventRow, DeviceRow).join(DeviceRow, EventRow.device_id == DeviceRow.id)
        if device is not None:
            query = query.where(EventRow.device_id == find_named_device(session, device).id)
        else:
            query = query.where(EventRow.device_id.is_not(None))  # as in the partial index
            if fleet is not None:
                query = query.where(DeviceRow.fleet == fleet)
        return _newest(session, query, since, limit)


def _newest(
    session: Session, query: Select[EventRow, DeviceRow], since: datetime | None, limit: int
) -> list[EventView]:
    """Return the newest entries. Ids increase with time, so no index of times is needed."""
    found = session.execute(query.order_by(EventRow.id.desc()).limit(limit)).all()
    return [
        EventView(
            time=row.time,
            actor=row.actor,
            kind=row.kind,
            details=row.details,
            device=device.name if row.device_id is not None else None,
        )
        for row, device in reversed(found)
        if since is None or row.time >= since
    ]


def _policy_view(row: PolicyRevisionRow) -> PolicyView:
    document = decode_document(row.document.encode())
    return PolicyView(
        revision=row.revision,
        policy=document.policy.kind,
        temperatures=document.policy.temperatures,
        thresholds=document.policy.thresholds,
        certificate=document.certificate,
        audit=document.audit,
        reason=row.reason,
        created_by=row.created_by,
        created_at=row.created_at,
        published_at=row.published_at,
    )

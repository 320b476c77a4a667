"""Who is there and what happened: devices, cohorts, the history of policies, the audit log."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit.policies import Certificate, decode_document
from edgeexit.wire import messages
from edgeexit_calibration.cohorts import CohortAddress, current_revision, find_cohort
from edgeexit_calibration.database import Database
from edgeexit_calibration.tables import AuditedSample, Cohort, Device, Event, PolicyRevision, Registration


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device and what it runs; the latter is null until it has told its state."""

    fleet: str
    shard: str
    device: str
    last_seen: datetime
    online: bool | None = None
    bundle: str | None = None
    cohort: str | None = None
    revision: int | None = None
    policy: str | None = None
    agent: str | None = None
    rejected: str | None = None
    """Why it refused the last policy that it refused."""


class CohortView(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort; what was asked of it is null where nobody registered it."""

    fleet: str
    bundle: str
    cohort: str
    devices: int
    up_to_date: int
    """Devices that run the current revision."""
    audits: int
    """Audited samples, of all revisions."""
    model: str | None = None
    exits: tuple[str, ...] | None = None
    risk: float | None = None
    delta: float | None = None
    revision: int | None = None
    policy: str | None = None
    condition: str | None = None
    """What stands against the current revision, or null: watched and well."""

    @property
    def address(self) -> CohortAddress:
        """What the other views ask for."""
        return CohortAddress(self.fleet, self.bundle, self.cohort)


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """A revision of a cohort's policy and why there is one."""

    revision: int
    policy: str
    temperatures: tuple[float, ...]
    thresholds: tuple[float | None, ...]
    certificate: Certificate | None
    reason: str
    who: str
    at: datetime
    published_at: datetime | None
    """null: not handed to the broker yet."""


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log."""

    at: datetime
    who: str
    what: str
    details: dict[str, Any]


def devices(database: Database, *, fleet: str | None = None) -> list[DeviceView]:
    """Return every device that has sent something, by name."""
    query = select(Device).order_by(Device.fleet, Device.shard, Device.device)
    with database.reading() as session:
        return [_device_view(row) for row in session.scalars(_in_fleet(query, Device.fleet, fleet))]


def cohorts(database: Database, *, fleet: str | None = None) -> list[CohortView]:
    """Return every cohort that was registered or sent something, in order of appearance."""
    query = select(Cohort, Registration).outerjoin(Registration).order_by(Cohort.id)
    with database.reading() as session:
        states = [
            (device.fleet, msgspec.json.decode(device.state, type=messages.State))
            for device in session.scalars(_in_fleet(select(Device), Device.fleet, fleet))
            if device.state is not None
        ]
        return [
            _cohort_view(session, cohort, asked, [s for f, s in states if (f, s.bundle, s.cohort) == _key(cohort)])
            for cohort, asked in session.execute(_in_fleet(query, Cohort.fleet, fleet))
        ]


def policy_history(database: Database, cohort: CohortAddress) -> list[PolicyView]:
    """Return a cohort's revisions, oldest first."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return []
        rows = session.scalars(select(PolicyRevision).filter_by(cohort_id=found.id).order_by(PolicyRevision.revision))
        return [_policy_view(row) for row in rows]


def events(database: Database, cohort: CohortAddress) -> list[EventView]:
    """Return a cohort's lines of the audit log, oldest first."""
    with database.reading() as session:
        found = find_cohort(session, cohort)
        if found is None:
            return []
        rows = session.scalars(select(Event).filter_by(cohort_id=found.id).order_by(Event.id))
        return [EventView(at=row.at, who=row.who, what=row.what, details=row.details) for row in rows]


def _in_fleet(query: Any, column: Any, fleet: str | None) -> Any:
    return query if fleet is None else query.where(column == fleet)


def _key(cohort: Cohort) -> CohortAddress:
    return CohortAddress(cohort.fleet, cohort.bundle, cohort.cohort)


def _device_view(row: Device) -> DeviceView:
    known: dict[str, Any] = {}
    if row.state is not None:
        state = msgspec.json.decode(row.state, type=messages.State)
        known = {name: getattr(state, name) for name in ("online", "bundle", "cohort", "revision", "policy", "agent")}
        known["rejected"] = None if state.rejected is None else state.rejected.reason
    return DeviceView(fleet=row.fleet, shard=row.shard, device=row.device, last_seen=row.last_seen, **known)


def _cohort_view(
    session: Session, cohort: Cohort, asked: Registration | None, states: list[messages.State]
) -> CohortView:
    audits = session.scalar(select(func.count()).select_from(AuditedSample).filter_by(cohort_id=cohort.id)) or 0
    row = current_revision(session, cohort.id)
    known: dict[str, Any] = {}
    if asked is not None and row is not None:
        known = {
            "model": asked.model,
            "exits": tuple(asked.exits),
            "risk": asked.risk,
            "delta": asked.delta,
            "revision": row.revision,
            "policy": decode_document(row.document.encode()).policy.kind,
            "condition": _condition(session, cohort.id, row.revision, asked.risk),
        }
    return CohortView(
        fleet=cohort.fleet,
        bundle=cohort.bundle,
        cohort=cohort.cohort,
        devices=len(states),
        up_to_date=sum(row is not None and state.revision == row.revision for state in states),
        audits=audits,
        **known,
    )


def _condition(session: Session, cohort_id: int, revision: int, risk: float) -> str | None:
    """Return what the newest event says against a revision and a goal: a broken certificate, a refit that waits."""
    query = select(Event).filter_by(cohort_id=cohort_id).where(Event.what.in_(["certificate broken", "held"]))
    last = session.scalar(query.order_by(Event.id.desc()).limit(1))
    if last is None or (last.details["revision"], last.details["risk"]) != (revision, risk):
        return None
    return last.what if last.what == "certificate broken" else f"certificate broken; {last.details['cause']}"


def _policy_view(row: PolicyRevision) -> PolicyView:
    document = decode_document(row.document.encode())
    return PolicyView(
        revision=row.revision,
        policy=document.policy.kind,
        temperatures=document.policy.temperatures,
        thresholds=document.policy.thresholds,
        certificate=document.certificate,
        reason=row.reason,
        who=row.who,
        at=row.at,
        published_at=row.published_at,
    )

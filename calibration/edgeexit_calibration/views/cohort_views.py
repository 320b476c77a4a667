"""Read-only views of cohorts: their devices and their current policies."""

from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit.policies import decode_document
from edgeexit.wire import messages
from edgeexit_calibration.store.cohorts import CohortAddress, current_revision
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    CohortRow,
    DeviceRow,
    EventRow,
    RegistrationRow,
)


class CohortView(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort. The fields from `model` on are null if the cohort is not registered."""

    fleet: str
    bundle: str
    cohort: str
    devices: int
    up_to_date: int
    """Number of devices that run the current revision."""
    audits: int
    """Number of audited samples, under all revisions."""
    model: str | None = None
    exits: tuple[str, ...] | None = None
    risk: float | None = None
    delta: float | None = None
    revision: int | None = None
    policy: str | None = None
    condition: str | None = None
    """The problem of the current revision: `risk exceeded`, with the cause if a refit is postponed; null if none."""

    @property
    def address(self) -> CohortAddress:
        """The address of the cohort, e.g. for `policy_history` and `events`."""
        return CohortAddress(self.fleet, self.bundle, self.cohort)


def cohorts(database: Database, *, fleet: str | None = None) -> list[CohortView]:
    """Return every cohort of a fleet (None: all fleets) that was registered or named in a message, oldest first."""
    query = select(CohortRow, RegistrationRow).outerjoin(RegistrationRow).order_by(CohortRow.id)
    with database.reading() as session:
        states = [
            (device.fleet, msgspec.json.decode(device.state, type=messages.State))
            for device in session.scalars(_in_fleet(select(DeviceRow), DeviceRow.fleet, fleet))
            if device.state is not None
        ]
        return [
            _cohort_view(
                session, cohort, registration, [s for f, s in states if (f, s.bundle, s.cohort) == _address(cohort)]
            )
            for cohort, registration in session.execute(_in_fleet(query, CohortRow.fleet, fleet))
        ]


def _in_fleet(query: Any, column: Any, fleet: str | None) -> Any:
    return query if fleet is None else query.where(column == fleet)


def _address(cohort: CohortRow) -> CohortAddress:
    return CohortAddress(cohort.fleet, cohort.bundle, cohort.cohort)


def _cohort_view(
    session: Session, cohort: CohortRow, registration: RegistrationRow | None, states: list[messages.State]
) -> CohortView:
    audits = session.scalar(select(func.count()).select_from(AuditedSampleRow).filter_by(cohort_id=cohort.id)) or 0
    row = current_revision(session, cohort.id)
    registered: dict[str, Any] = {}
    if registration is not None and row is not None:
        registered = {
            "model": registration.model,
            "exits": tuple(registration.exits),
            "risk": registration.risk,
            "delta": registration.delta,
            "revision": row.revision,
            "policy": decode_document(row.document.encode()).policy.kind,
            "condition": _condition(session, cohort.id, row.revision, registration.risk),
        }
    return CohortView(
        fleet=cohort.fleet,
        bundle=cohort.bundle,
        cohort=cohort.cohort,
        devices=len(states),
        up_to_date=sum(row is not None and state.revision == row.revision for state in states),
        audits=audits,
        **registered,
    )


def _condition(session: Session, cohort_id: int, revision: int, risk: float) -> str | None:
    """Return the problem that the newest event reports for this revision and risk, or None."""
    query = select(EventRow).filter_by(cohort_id=cohort_id)
    query = query.where(EventRow.kind.in_(["risk exceeded", "refit postponed"]))
    last = session.scalar(query.order_by(EventRow.id.desc()).limit(1))
    if last is None or (last.details["revision"], last.details["risk"]) != (revision, risk):
        return None
    return "risk exceeded" if last.kind == "risk exceeded" else f"risk exceeded; {last.details['cause']}"

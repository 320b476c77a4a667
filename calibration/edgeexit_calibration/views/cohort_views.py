"""Read-only views of cohorts: their devices and their current policies, in a fixed number of queries for all."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from edgeexit.policies import decode_document
from edgeexit.policies.document import Loss
from edgeexit_calibration.store.cohorts import CohortAddress
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import (
    AuditTotalRow,
    CohortRow,
    EventRow,
    PolicyRevisionRow,
    RegistrationRow,
)
from edgeexit_calibration.views.device_counts import DeviceCount, count_devices
from edgeexit_calibration.views.field_costs import CohortCosts, costs_in_use
from edgeexit_calibration.views.names import address_of, find_named_cohort, fleet_names


class CohortView(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort. The fields from `model` on are null if the cohort is not registered."""

    fleet: str
    bundle: str
    cohort: str
    devices: int
    """Number of devices with this cohort in their newest state."""
    online: int
    """Number of these that are connected."""
    up_to_date: int
    """Number of these that run the current revision."""
    audits: int
    """Number of audited samples that count, under all revisions."""
    labelled: int
    """Number of these that have a label."""
    unknown_revision: int | None = None
    """A revision that a device claims to run and that this database has not issued; null if there is none."""
    model: str | None = None
    task: str | None = None
    """`classification`, `segmentation` or `tagging`."""
    exits: tuple[str, ...] | None = None
    loss: Loss | None = None
    """What `risk` bounds."""
    risk: float | None = None
    delta: float | None = None
    costs: CohortCosts | None = None
    """With which policies are compared."""
    budget_ms: float | None = None
    """Bound on the mean cost of a sample; null also if it has none."""
    revision: int | None = None
    policy: str | None = None
    condition: str | None = None
    """The problem of the current revision: `risk exceeded`, with the cause if it stays; null if none."""

    @property
    def address(self) -> CohortAddress:
        """The address of the cohort, e.g. for `policy_history` and `events`."""
        return CohortAddress(self.fleet, self.bundle, self.cohort)


def cohorts(database: Database, *, fleet: str | None = None) -> list[CohortView]:
    """Return every cohort of a fleet (None: all fleets) that was registered or named in a message, oldest first."""
    with database.reading() as session:
        fleets = fleet_names(session) if fleet is None else [fleet]
        return list(cohort_views(session, fleets, count_devices(session, fleets)).values())


def find_cohorts(
    database: Database, name: str | None, *, fleet: str | None = None, limit: int | None = None
) -> list[CohortAddress]:
    """Return the cohort with a name that a user wrote; without a name, the registered cohorts, oldest first.

    Raises NameLookupError if the name is unknown or not unique, and DatabaseError.
    """
    with database.reading() as session:
        if name is not None:
            return [address_of(find_named_cohort(session, name, fleet=fleet))]
        query = select(CohortRow).join(RegistrationRow).order_by(CohortRow.id).limit(limit)
        return [address_of(row) for row in session.scalars(query if fleet is None else query.filter_by(fleet=fleet))]


def cohort_views(session: Session, fleets: Collection[str], counts: Sequence[DeviceCount]) -> dict[int, CohortView]:
    """Return the cohorts of these fleets by id, oldest first, with these numbers of devices."""
    query = select(CohortRow, RegistrationRow).outerjoin(RegistrationRow).where(CohortRow.fleet.in_(fleets))
    documents = _current_documents(session)
    problems = _problems(session)
    sums = func.sum(AuditTotalRow.samples), func.sum(AuditTotalRow.labelled)
    totals = select(AuditTotalRow.cohort_id, *sums).group_by(AuditTotalRow.cohort_id)
    audits = {row[0]: (int(row[1]), int(row[2])) for row in session.execute(totals)}
    of_cohort: dict[int | None, list[DeviceCount]] = {}
    for count in counts:
        of_cohort.setdefault(count.cohort_id, []).append(count)
    views = {}
    for cohort, registration in session.execute(query.order_by(CohortRow.id)):
        alike = of_cohort.get(cohort.id, [])
        registered: dict[str, Any] = {}
        if registration is not None and cohort.id in documents:
            registered = _registered(cohort, registration, *documents[cohort.id], problems.get(cohort.id))
        revision = registered.get("revision")
        samples, labelled = audits.get(cohort.id, (0, 0))
        views[cohort.id] = CohortView(
            fleet=cohort.fleet,
            bundle=cohort.bundle,
            cohort=cohort.cohort,
            devices=sum(count.devices for count in alike),
            online=sum(count.devices for count in alike if count.online),
            up_to_date=sum(count.devices for count in alike if count.revision == revision is not None),
            audits=samples,
            labelled=labelled,
            **registered,
        )
    return views


def _registered(
    cohort: CohortRow, registration: RegistrationRow, revision: int, document: str, problem: EventRow | None
) -> dict[str, Any]:
    """Return the fields of a cohort that only a registered one has."""
    known = max(revision, cohort.highest_unknown_revision)
    return {
        "model": registration.model,
        "task": registration.task,
        "exits": tuple(registration.exits),
        "loss": msgspec.convert(registration.loss, Loss),
        "risk": registration.risk,
        "delta": registration.delta,
        "costs": costs_in_use(registration),
        "budget_ms": registration.budget_ms,
        "revision": revision,
        "policy": decode_document(document.encode()).policy.kind,
        "condition": _condition(problem, revision, registration.risk),
        "unknown_revision": cohort.claimed_revision if cohort.claimed_revision > known else None,
    }


def _current_documents(session: Session) -> dict[int, tuple[int, str]]:
    """Return the current revision of each registered cohort, and its policy document."""
    columns = [
        select(column)
        .where(PolicyRevisionRow.cohort_id == RegistrationRow.cohort_id)
        .order_by(PolicyRevisionRow.revision.desc())
        .limit(1)
        .scalar_subquery()
        for column in (PolicyRevisionRow.revision, PolicyRevisionRow.document)
    ]
    rows = session.execute(select(RegistrationRow.cohort_id, *columns))
    return {row[0]: (row[1], row[2]) for row in rows if row[1] is not None}


def _problems(session: Session) -> dict[int, EventRow]:
    """Return the newest event of each registered cohort that reports a problem of its revision."""
    kinds = ("risk exceeded", "refit postponed")
    event = aliased(EventRow)
    newest = [
        select(event.id)
        .where(event.cohort_id == RegistrationRow.cohort_id, event.kind == kind)
        .order_by(event.id.desc())
        .limit(1)
        .scalar_subquery()
        for kind in kinds
    ]
    ids = [
        max(filter(None, row), default=None) for row in session.execute(select(*newest).select_from(RegistrationRow))
    ]
    rows = session.scalars(select(EventRow).where(EventRow.id.in_([newest for newest in ids if newest is not None])))
    return {row.cohort_id: row for row in rows if row.cohort_id is not None}


def _condition(problem: EventRow | None, revision: int, risk: float) -> str | None:
    """Return the problem that the newest event reports for this revision and risk, or None."""
    if problem is None or (problem.details["revision"], problem.details["risk"]) != (revision, risk):
        return None
    if problem.kind == "risk exceeded":
        return "risk exceeded"
    return f"risk exceeded; {problem.details['cause']}"

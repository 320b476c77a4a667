"""Reads and writes cohorts, their policy revisions and their events in a database session."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.errors import PolicyError
from edgeexit.policies import AuditRule, Certificate, Policy, PolicyDocument, Scope, decode_document, encode_document
from edgeexit.policies.document import MAX_REVISION, LatencyBound
from edgeexit_calibration.store.insert_missing import insert_missing
from edgeexit_calibration.store.tables import CohortRow, EventRow, PolicyRevisionRow, RegistrationRow

CALIBRATOR: Final = "calibrator"
"""The actor of an event that the service caused, not a user."""

EventKind = Literal[
    "registered", "published", "risk exceeded", "refit postponed", "refitted", "usual audits", "renumbered",
    "revision accepted", "bounds set", "costs changed",  # of a cohort
    "key pinned", "key changed", "approved", "revoked", "clone", "clone cleared",  # of a device
    "set aside", "taken back",  # of a device in a cohort
]  # fmt: skip


class CohortAddress(NamedTuple):
    """The devices of a fleet that share a bundle and a label."""

    fleet: str
    bundle: str
    cohort: str

    def __str__(self) -> str:
        """Return FLEET/BUNDLE/COHORT, with the first 12 digits of the bundle's digest."""
        return f"{self.fleet}/{self.bundle[:12]}/{self.cohort}"


def find_cohort(session: Session, address: CohortAddress) -> CohortRow | None:
    """Return a cohort, or None if the database does not contain it."""
    return session.scalar(select(CohortRow).filter_by(**address._asdict()))


def find_or_add_cohort(session: Session, address: CohortAddress) -> CohortRow:
    """Return a cohort; create it if it does not exist."""
    return find_cohort(session, address) or add_cohort(session, address)


def add_cohort(session: Session, address: CohortAddress) -> CohortRow:
    """Create a cohort; if another process has created it meanwhile, return that one."""
    insert_missing(session, CohortRow, {**address._asdict(), "highest_unknown_revision": 0, "claimed_revision": 0})
    return session.scalars(select(CohortRow).filter_by(**address._asdict())).one()


def locked_cohort(session: Session, cohort_id: int) -> CohortRow:
    """Return a cohort; until the end of the transaction, no other process changes it or adds a revision or an event.

    The lock (`FOR NO KEY UPDATE` of PostgreSQL) does not stop those who store messages. Lock one cohort per
    transaction, or several in the order of their ids.
    """
    query = select(CohortRow).filter_by(id=cohort_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def registered_cohorts(session: Session, fleet: str) -> list[tuple[int, CohortAddress]]:
    """Return the id and the address of each registered cohort of a fleet."""
    query = select(CohortRow).join(RegistrationRow).where(CohortRow.fleet == fleet).order_by(CohortRow.id)
    return [(cohort.id, CohortAddress(cohort.fleet, cohort.bundle, cohort.cohort)) for cohort in session.scalars(query)]


def current_revision(session: Session, cohort_id: int) -> PolicyRevisionRow | None:
    """Return a cohort's current policy, which is the highest revision, or None before the registration."""
    return session.scalar(
        select(PolicyRevisionRow).filter_by(cohort_id=cohort_id).order_by(PolicyRevisionRow.revision.desc()).limit(1)
    )


def comparable_revisions(session: Session, cohort_id: int, policy: Policy) -> list[int]:
    """Return the revisions whose audits show what the samples do under a policy, whatever its thresholds are.

    Readouts depend on the temperatures. The scores in the audits of a policy that reads the probabilities of all
    classes depend on all of its parameters except the thresholds. Revision 0 is the policy in the bundle. It is
    included only if all revisions are comparable, because `edgeexit fit` may have replaced the bundle's policy after a
    device started with it.
    """
    documents = [
        decode_document(content.encode())
        for content in session.scalars(select(PolicyRevisionRow.document).filter_by(cohort_id=cohort_id))
    ]
    alike = [document.revision for document in documents if _is_comparable(document.policy, policy)]
    return [0, *alike] if len(alike) == len(documents) else alike


def _is_comparable(other: Policy, policy: Policy) -> bool:
    if not policy.reads_probabilities:
        return other.temperatures == policy.temperatures
    return type(other) is type(policy) and msgspec.structs.replace(other, thresholds=policy.thresholds) == policy


def add_revision(
    session: Session,
    cohort: CohortRow,
    policy: Policy,
    certificate: Certificate | None,
    *,
    max_latency: LatencyBound | None,
    audit: AuditRule | None = None,
    reason: str,
    created_by: str,
    now: datetime,
) -> int:
    """Store a policy as a cohort's next revision; return its number, which is higher than all earlier ones.

    `cohort` comes from `locked_cohort`, so that no other process takes the same number. The service publishes the
    policy at its next check. Raises PolicyError if the cohort has used the last number.
    """
    current = current_revision(session, cohort.id)
    revision = 1 + max(0 if current is None else current.revision, cohort.highest_unknown_revision)
    if revision > MAX_REVISION:
        raise PolicyError(
            f"fleet '{cohort.fleet}', cohort '{cohort.cohort}': revision {MAX_REVISION} is the last one, so it gets no "
            "new policy; deploy a bundle with another digest, or use another cohort"
        )
    document = PolicyDocument(
        bundle=cohort.bundle,
        revision=revision,
        policy=policy,
        scope=Scope(fleet=cohort.fleet, cohort=cohort.cohort),
        certificate=certificate,
        max_latency=max_latency,
        audit=audit,
    )
    session.add(
        PolicyRevisionRow(
            cohort_id=cohort.id,
            revision=revision,
            document=encode_document(document).decode(),
            reason=reason,
            created_by=created_by,
            created_at=now,
        )
    )
    return revision


def add_event(
    session: Session,
    cohort_id: int | None,
    kind: EventKind,
    details: Mapping[str, Any],
    *,
    actor: str,
    now: datetime,
    device_id: int | None = None,
) -> None:
    """Add an entry about a cohort or a device to the audit log."""
    session.add(
        EventRow(cohort_id=cohort_id, device_id=device_id, kind=kind, details=dict(details), actor=actor, time=now)
    )


def last_event(session: Session, cohort_id: int, kind: EventKind) -> EventRow | None:
    """Return the newest event of a kind, or None."""
    query = select(EventRow).filter_by(cohort_id=cohort_id, kind=kind).order_by(EventRow.id.desc()).limit(1)
    return session.scalar(query)


def last_device_event(session: Session, device_id: int, kind: EventKind) -> EventRow | None:
    """Return the newest event of a kind about a device, or None."""
    query = select(EventRow).filter_by(device_id=device_id, kind=kind).order_by(EventRow.id.desc()).limit(1)
    return session.scalar(query)

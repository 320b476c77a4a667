"""Cohorts in the database: who they are, what was asked of them, their policies and their events."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.policies import AnyPolicy, Certificate, PolicyDocument, Scope, decode_document, encode_document
from edgeexit_calibration.tables import Cohort, Event, PolicyRevision, Registration

CALIBRATOR: Final = "calibrator"
"""Who did it, where no person did."""


class CohortAddress(NamedTuple):
    """The devices of a fleet that share a bundle and a label."""

    fleet: str
    bundle: str
    cohort: str

    def __str__(self) -> str:
        """Return it as people read it, the digest shortened."""
        return f"{self.fleet}/{self.bundle[:12]}/{self.cohort}"


def find_cohort(session: Session, address: CohortAddress) -> Cohort | None:
    """Return a cohort, or None where no message and no registration named it yet."""
    return session.scalar(select(Cohort).filter_by(**address._asdict()))


def find_or_add_cohort(session: Session, address: CohortAddress) -> Cohort:
    """Return a cohort, new where it was not known."""
    cohort = find_cohort(session, address)
    if cohort is None:
        cohort = Cohort(**address._asdict())
        session.add(cohort)
        session.flush()
    return cohort


def registered_cohorts(session: Session, fleet: str) -> list[tuple[int, CohortAddress]]:
    """Return id and address of a fleet's registered cohorts."""
    rows = session.scalars(select(Cohort).join(Registration).where(Cohort.fleet == fleet).order_by(Cohort.id))
    return [(cohort.id, CohortAddress(cohort.fleet, cohort.bundle, cohort.cohort)) for cohort in rows]


def current_revision(session: Session, cohort_id: int) -> PolicyRevision | None:
    """Return a cohort's policy in force, the highest revision, or None before it is registered."""
    return session.scalar(
        select(PolicyRevision).filter_by(cohort_id=cohort_id).order_by(PolicyRevision.revision.desc()).limit(1)
    )


def revisions_with_temperatures(session: Session, cohort_id: int, temperatures: tuple[float, ...]) -> list[int]:
    """Return the revisions whose readouts were taken under these temperatures, and so can be pooled.

    Revision 0, the policy inside the bundle, is among them only where no revision ever had other temperatures: a
    bundle can be fitted again, and then it is not known which of its policies a device began with.
    """
    documents = [
        decode_document(content.encode())
        for content in session.scalars(select(PolicyRevision.document).filter_by(cohort_id=cohort_id))
    ]
    alike = [document.revision for document in documents if document.policy.temperatures == temperatures]
    return [0, *alike] if len(alike) == len(documents) else alike


def add_revision(
    session: Session,
    cohort: Cohort,
    policy: AnyPolicy,
    certificate: Certificate | None,
    *,
    reason: str,
    who: str,
    now: datetime,
) -> int:
    """Store a policy as a cohort's next revision, above all that it ever had; return the number.

    The service publishes it at its next check.
    """
    current = current_revision(session, cohort.id)
    revision = 1 + max(0 if current is None else current.revision, cohort.foreign_revision)
    document = PolicyDocument(
        bundle=cohort.bundle,
        revision=revision,
        policy=policy,
        scope=Scope(fleet=cohort.fleet, cohort=cohort.cohort),
        certificate=certificate,
    )
    session.add(
        PolicyRevision(
            cohort_id=cohort.id,
            revision=revision,
            document=encode_document(document).decode(),
            reason=reason,
            who=who,
            at=now,
        )
    )
    return revision


def add_event(
    session: Session, cohort_id: int | None, what: str, details: Mapping[str, Any], *, who: str, now: datetime
) -> None:
    """Write a line of the audit log."""
    session.add(Event(cohort_id=cohort_id, what=what, details=dict(details), who=who, at=now))


def last_event(session: Session, cohort_id: int, what: str) -> Event | None:
    """Return the newest event of a kind."""
    return session.scalar(select(Event).filter_by(cohort_id=cohort_id, what=what).order_by(Event.id.desc()).limit(1))

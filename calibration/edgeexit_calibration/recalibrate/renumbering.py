"""Stores the policy of a cohort again, under a number above a revision that this database did not issue."""

import logging
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit.limited_log import LimitedLog
from edgeexit.policies import decode_document
from edgeexit_calibration.store.cohorts import (
    CALIBRATOR,
    CohortAddress,
    add_event,
    add_revision,
    current_revision,
    locked_cohort,
)
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import EventRow

_log = logging.getLogger(__name__)

_MAX_RENUMBERINGS: Final = 3
_RENUMBERING_WINDOW: Final = timedelta(hours=1)


def renumber(database: Database, cohort_id: int, address: CohortAddress, *, repeats: LimitedLog, now: datetime) -> None:
    """Store the current policy again, unless its number is above the unknown revision, or that was done too often."""
    with database.writing() as session:
        cohort, row = locked_cohort(session, cohort_id), current_revision(session, cohort_id)
        if row is None or cohort.highest_unknown_revision < row.revision:
            return
        if _recent_renumberings(session, cohort_id, now) >= _MAX_RENUMBERINGS:
            repeats.warning(
                (address, "revisions"),
                "%s: our key has signed revision %d, which this database did not issue, after others within %d "
                "min; does another calibrator with another database serve the fleet? The policy keeps its number",
                address,
                cohort.highest_unknown_revision,
                _RENUMBERING_WINDOW.total_seconds() // 60,
            )
            return
        current, unknown = decode_document(row.document.encode()), cohort.highest_unknown_revision
        reason = f"revision {unknown} is in use, but this database did not issue it"
        revision = add_revision(
            session,
            cohort,
            current.policy,
            current.certificate,
            max_latency=current.max_latency,
            audit=current.audit,
            reason=reason,
            created_by=CALIBRATOR,
            now=now,
        )
        details = {"revision": revision, "unknown_revision": unknown, "copied_revision": row.revision}
        add_event(session, cohort_id, "renumbered", details, actor=CALIBRATOR, now=now)
    _log.warning(
        "%s: %s; was the database restored from a backup? The policy of revision %d is published again as revision %d",
        address,
        reason,
        current.revision,
        revision,
    )


def _recent_renumberings(session: Session, cohort_id: int, now: datetime) -> int:
    """Return how often a policy got a new number recently; two calibrators must not outbid each other for ever."""
    query = select(func.count()).select_from(EventRow).filter_by(cohort_id=cohort_id, kind="renumbered")
    return session.scalar(query.where(EventRow.time > now - _RENUMBERING_WINDOW)) or 0

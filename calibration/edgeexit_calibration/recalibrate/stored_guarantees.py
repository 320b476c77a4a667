"""The guarantees of cohorts in the database: what one process leaves to the next one."""

import logging
from datetime import datetime

import msgspec
from sqlalchemy.orm import Session

from edgeexit.policies import decode_document
from edgeexit_calibration.recalibrate.guarantee import Guarantee
from edgeexit_calibration.recalibrate.guarantee_codec import Snapshot, StateError, decode_snapshot, encode_snapshot
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from edgeexit_calibration.store.cohorts import current_revision
from edgeexit_calibration.store.tables import GuaranteeRow

_log = logging.getLogger(__name__)


class StoredGuarantee(msgspec.Struct, frozen=True, kw_only=True):
    """The guarantee of a cohort when it was last written."""

    state: Guarantee
    rules: GuaranteeRules
    """Under which the state was reached."""
    revision: int
    """The current revision when it was written."""
    updated_at: datetime


def read_guarantee(session: Session, cohort_id: int) -> StoredGuarantee | None:
    """Return the guarantee of a cohort's current policy; None if it has not begun, or its state cannot be used.

    The policy may have been stored again under another number. A damaged state is logged.
    """
    row, current = session.get(GuaranteeRow, cohort_id), current_revision(session, cohort_id)
    if row is None or current is None:
        return None
    try:
        snapshot = decode_snapshot(row.state, decode_document(current.document.encode()).policy)
    except StateError as error:
        _log.warning(
            "cohort %d: the state of its guarantee is not used, and the guarantee begins anew: %s", cohort_id, error
        )
        return None
    if snapshot is None:
        return None
    return StoredGuarantee(state=snapshot.state, rules=snapshot.rules, revision=row.revision, updated_at=row.updated_at)


def write_guarantee(session: Session, cohort_id: int, revision: int, snapshot: Snapshot, *, now: datetime) -> None:
    """Store the guarantee of a cohort, whose policy in force is a revision."""
    session.merge(
        GuaranteeRow(
            cohort_id=cohort_id,
            revision=revision,
            last_sample=snapshot.state.last,
            state=encode_snapshot(snapshot),
            updated_at=now,
        )
    )

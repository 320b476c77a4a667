"""Accepts a revision that devices report but that no key of ours has signed to this database, because a user says so.

Policies and heartbeats at the broker are signed, so the service believes them by itself. After the database and the
retained messages of the broker were both lost, only the devices know which revisions they have accepted.
"""

from datetime import datetime
from typing import Final

import msgspec

from edgeexit.errors import EdgeExitError
from edgeexit.policies.document import MAX_REVISION
from edgeexit_calibration.store.cohorts import CohortAddress, add_event, current_revision, locked_cohort
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.views.names import address_of, find_named_cohort

_MAX_AHEAD: Final = 1_000_000
"""A claim that is further ahead was probably invented, so the user has to name the number."""


class RevisionError(EdgeExitError):
    """A revision cannot be accepted: no device claims it, or no revision could follow it."""


class AcceptedRevision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of `accept_revision`."""

    cohort: CohortAddress
    accepted: int
    """Further revisions of the cohort are above this number."""
    current: int | None
    """The revision of the database, which the service publishes under a higher number; None before the registration."""


def accept_revision(
    database: Database, cohort: str, revision: int | None = None, *, user: str, now: datetime
) -> AcceptedRevision:
    """Let the next revision of a cohort be above one that devices run.

    Args:
        database: contains the cohort.
        cohort: `COHORT`, `FLEET/COHORT` or `FLEET/BUNDLE/COHORT`; BUNDLE may be a prefix of the digest.
        revision: the highest number that honest devices have accepted; None: the highest one that any device claims.
        user: name of the user, for the audit log.
        now: the time.

    Raises NameLookupError if there is no such cohort or more than one, RevisionError if no device claims an unknown
    revision or `revision` is too high or too low, and DatabaseError.

    """
    with database.writing() as session:
        row = locked_cohort(session, find_named_cohort(session, cohort).id)
        address, newest = address_of(row), current_revision(session, row.id)
        current = None if newest is None else newest.revision
        known = max(current or 0, row.highest_unknown_revision)
        if revision is None and not row.claimed_revision:
            raise RevisionError(f"cohort '{address}': no device claims a revision that this database did not issue")
        if revision is None and row.claimed_revision > known + _MAX_AHEAD:
            raise RevisionError(
                f"cohort '{address}': a device claims revision {row.claimed_revision}, more than a million above "
                f"{known}; a hostile one? See what the others run (`edgeexit calibrator devices`), and name that "
                "number with --revision"
            )
        accepted = row.claimed_revision if revision is None else revision
        if not known <= accepted < MAX_REVISION:
            raise RevisionError(
                f"cohort '{address}': revision {accepted} must be at least {known}, which is known already, and below "
                f"{MAX_REVISION}, after which none can follow"
            )
        row.highest_unknown_revision, row.claimed_revision = accepted, 0
        details = {"revision": accepted, "current": current}
        add_event(session, row.id, "revision accepted", details, actor=user, now=now)
        return AcceptedRevision(cohort=address, accepted=accepted, current=current)

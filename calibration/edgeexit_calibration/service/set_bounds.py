"""Sets the bounds within which the calibrator may change the policy of a cohort by itself."""

from datetime import datetime

import msgspec

from edgeexit_calibration.store.cohorts import CohortAddress, add_event, locked_cohort
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.policy_bounds import BoundsError, PolicyBounds, StoredBounds, read_bounds, write_bounds
from edgeexit_calibration.store.tables import CohortRow, RegistrationRow
from edgeexit_calibration.views.names import address_of, find_named_cohort


class CohortBounds(msgspec.Struct, frozen=True, kw_only=True):
    """A registered cohort, and the bounds of its policy."""

    fleet: str
    bundle: str
    cohort: str
    bounds: PolicyBounds
    set_by: str | None
    """User who set them; null: there are none."""
    set_at: datetime | None

    @property
    def address(self) -> CohortAddress:
        """The address of the cohort."""
        return CohortAddress(self.fleet, self.bundle, self.cohort)


def cohort_bounds(database: Database, cohort: str) -> CohortBounds:
    """Return the bounds of a cohort: `COHORT`, `FLEET/COHORT` or `FLEET/BUNDLE/COHORT`.

    Raises NameLookupError if there is no such cohort or more than one, BoundsError if it is not registered, and
    DatabaseError.
    """
    with database.reading() as session:
        row = find_named_cohort(session, cohort)
        _require_registered(row, session.get(RegistrationRow, row.id))
        return _view(row, read_bounds(session, row.id))


def set_bounds(database: Database, cohort: str, bounds: PolicyBounds, *, user: str, now: datetime) -> CohortBounds:
    """Set the bounds of a cohort, which the calibrator keeps from its next check on; return them.

    `PolicyBounds()` removes all. Raises what `cohort_bounds` raises.
    """
    with database.writing() as session:
        row = locked_cohort(session, find_named_cohort(session, cohort).id)
        _require_registered(row, session.get(RegistrationRow, row.id))
        before = read_bounds(session, row.id)
        if bounds != (PolicyBounds() if before is None else before.bounds):
            write_bounds(session, row.id, bounds, user=user, now=now)
            session.flush()
            add_event(session, row.id, "bounds set", msgspec.structs.asdict(bounds), actor=user, now=now)
        return _view(row, read_bounds(session, row.id))


def _require_registered(row: CohortRow, registration: RegistrationRow | None) -> None:
    if registration is None:
        raise BoundsError(
            f"cohort '{address_of(row)}' is not registered, so the calibrator does not change its policy; see "
            "`edgeexit calibrator register`"
        )


def _view(row: CohortRow, stored: StoredBounds | None) -> CohortBounds:
    return CohortBounds(
        **address_of(row)._asdict(),
        bounds=PolicyBounds() if stored is None else stored.bounds,
        set_by=None if stored is None else stored.set_by,
        set_at=None if stored is None else stored.set_at,
    )

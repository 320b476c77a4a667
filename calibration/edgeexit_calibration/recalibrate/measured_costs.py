"""Keeps the field costs of registered cohorts up to date: from the profiles of their devices into the registration.

Everything that shows or uses costs reads them there, see `field_costs.costs_in_use`. A process computes those of a
cohort at its first check and then every ten minutes, so that profiles are not read at every check.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from edgeexit_calibration.ingest.enrolment import Enrolment
from edgeexit_calibration.store.cohorts import CALIBRATOR, add_event, locked_cohort
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import CohortRow, RegistrationRow
from edgeexit_calibration.views.field_costs import FieldCosts, costs_in_use, field_costs

_INTERVAL: Final = timedelta(minutes=10)
_NOTABLE: Final = 0.1
"""Relative change of the cost of an exit that is an event."""


class MeasuredCosts:
    """Refreshes the field costs of cohorts.

    Args:
        database: contains the profiles and the registrations.
        enrolment: which devices count.

    """

    def __init__(self, database: Database, enrolment: Enrolment) -> None:
        self._database = database
        self._enrolment = enrolment
        self._refreshed: dict[int, datetime] = {}

    def refresh(self, cohort_id: int, *, now: datetime) -> None:
        """Compute the field costs of a registered cohort again if it is time. Raises DatabaseError."""
        refreshed = self._refreshed.get(cohort_id)
        if refreshed is not None and now - refreshed < _INTERVAL:
            return
        with self._database.reading() as session:
            registration = session.get_one(RegistrationRow, cohort_id)
            cohort = session.get_one(CohortRow, cohort_id)
            found = field_costs(session, cohort, len(registration.exits), self._enrolment, now=now)
            is_known = _stored(registration) == found
        if not is_known:
            with self._database.writing() as session:
                locked_cohort(session, cohort_id)
                _store(session, session.get_one(RegistrationRow, cohort_id), found, now=now)
        self._refreshed[cohort_id] = now


def _stored(registration: RegistrationRow) -> FieldCosts | None:
    if registration.field_costs is None:
        return None
    return FieldCosts(tuple(registration.field_costs), registration.field_devices or 0)


def _store(session: Session, registration: RegistrationRow, found: FieldCosts | None, *, now: datetime) -> None:
    """Replace the field costs; add an event if the costs in use change notably."""
    before = costs_in_use(registration)
    registration.field_costs = None if found is None else list(found.cumulative_ms)
    registration.field_devices = None if found is None else found.devices
    after = costs_in_use(registration)
    same_source = (before.devices > 0) == (after.devices > 0)
    if not (same_source and _is_near(before.cumulative, after.cumulative)):
        details: dict[str, Any] = {"costs": after.cumulative, "cost_unit": after.unit, "devices": after.devices}
        add_event(session, registration.cohort_id, "costs changed", details, actor=CALIBRATOR, now=now)


def _is_near(before: Sequence[float], after: Sequence[float]) -> bool:
    return all(abs(new - old) <= _NOTABLE * old for old, new in zip(before, after, strict=True))

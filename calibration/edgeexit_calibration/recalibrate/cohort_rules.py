"""The rules of the guarantee of a cohort: what was registered, and the options of the service."""

from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit_calibration.ingest.enrolment import Enrolment
from edgeexit_calibration.recalibrate.guarantee import GuaranteeRules
from edgeexit_calibration.store.tables import DeviceRow, RegistrationRow

_SEEN_WITHIN: Final = timedelta(days=30)
_DEVICES_PER_TOLERATED: Final = 20
"""A cohort of so many devices can leave one out of its alarm. In a smaller one, a change on one device counts."""


class RecalibrationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the service changes the policies of all cohorts."""

    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    """Maximum probability of a false alarm between two changes of the data."""
    tolerated_devices: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Devices of a cohort that may forge audits; in a small cohort, only as many as are less than half of it."""
    max_changes_per_day: Annotated[int, msgspec.Meta(ge=0)] = 24
    """Maximum number of bolder policies of a cohort in a day. Stepping back after an alarm has no limit."""
    enrolment: Enrolment = "open"
    """Which devices count."""


def rules_of(
    session: Session, registration: RegistrationRow, options: RecalibrationOptions, *, now: datetime
) -> GuaranteeRules:
    """Return the rules of a registered cohort."""
    wanted = options.tolerated_devices
    enough = max(2 * wanted + 1, _DEVICES_PER_TOLERATED * wanted)
    devices = _counted_devices(session, registration.cohort_id, options.enrolment, now, limit=enough)
    return GuaranteeRules(
        risk=registration.risk,
        delta=registration.delta,
        costs=tuple(registration.costs),
        alpha=options.alpha,
        tolerated_devices=min(wanted, max(devices - 1, 0) // 2),
        tolerated_in_alarms=min(wanted, devices // _DEVICES_PER_TOLERATED),
    )


def _counted_devices(session: Session, cohort_id: int, enrolment: Enrolment, now: datetime, *, limit: int) -> int:
    """Return the number of devices that count, see `enrolment.is_counted`, and were seen lately, or `limit`.

    All of them, not those that have sent audits: a forger may be the first one that does.
    """
    counted = select(DeviceRow.id).where(
        DeviceRow.cohort_id == cohort_id,
        DeviceRow.revoked_at.is_(None),
        DeviceRow.clone_seen_at.is_(None),
        DeviceRow.last_seen > now - _SEEN_WITHIN,
    )
    if enrolment == "approve":
        counted = counted.where(DeviceRow.key.is_not(None))
    return session.scalar(select(func.count()).select_from(counted.limit(limit).subquery())) or 0

"""Stores which devices are far from their cohort: sets them aside, or only shows them, and takes them back.

At most one device of 20 is set aside at a time, those included that a user has set aside, and at most once a day. In a
cohort of fewer than 20 devices, a change on one of them is a change of the cohort, and a user decides. What a user has
decided about a device stays. An alarm takes back what was found before it: the change may have begun on these devices.

A device is set aside in one cohort. There it stays so while its states name another one: else a device could make the
tests of its cohort begin anew again and again.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from edgeexit_calibration.ingest.enrolment import Enrolment
from edgeexit_calibration.recalibrate.device_comparison import FarDevice
from edgeexit_calibration.store.cohorts import CALIBRATOR, add_event, last_event, locked_cohort
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import DeviceRow
from edgeexit_calibration.store.troubles import update_troubles
from edgeexit_calibration.views.counted_devices import number_of_counted

_log = logging.getLogger(__name__)

_DEVICES_PER_FOUND: Final = 20
_INTERVAL: Final = timedelta(days=1)


class DecidedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device that is far from its cohort, or about which a user has decided."""

    name: str
    """FLEET/SHARD/DEVICE."""
    set_aside_at: datetime | None
    """Since when its audits do not count; null: they count."""
    set_aside_by: str
    comparison: dict[str, float] | None
    """If the calibrator has found it: `audits`, their mean `loss`, and that of the `others`."""


def decided_devices(session: Session, cohort_id: int, *, limit: int) -> tuple[DecidedDevice, ...]:
    """Return the devices of a cohort that are set aside or far from it, the newest ones first."""
    shown = or_(DeviceRow.set_aside_at.is_not(None), DeviceRow.comparison.is_not(None))
    query = select(DeviceRow).where(DeviceRow.decided_cohort_id == cohort_id, shown)
    newest_first = query.order_by(DeviceRow.set_aside_at.desc(), DeviceRow.id)
    return tuple(
        DecidedDevice(
            name=row.name,
            set_aside_at=row.set_aside_at,
            set_aside_by=row.set_aside_by or CALIBRATOR,
            comparison=row.comparison,
        )
        for row in session.scalars(newest_first.limit(limit))
    )


def devices_set_aside(session: Session, cohort_id: int) -> tuple[int, ...]:
    """Return the ids of the devices of a cohort whose audits do not count, in ascending order."""
    query = select(DeviceRow.id).where(DeviceRow.decided_cohort_id == cohort_id, DeviceRow.set_aside_at.is_not(None))
    return tuple(sorted(session.scalars(query)))


def store_found(
    database: Database, cohort_id: int, found: Sequence[FarDevice], enrolment: Enrolment, *, now: datetime
) -> None:
    """Set the devices aside for which there is room, those with the most evidence first; show the others."""
    with database.writing() as session:
        locked_cohort(session, cohort_id)
        rows = {
            row.id: row
            for row in session.scalars(
                select(DeviceRow)
                .where(DeviceRow.id.in_([far.device for far in found]))
                .order_by(DeviceRow.id)
                .with_for_update(key_share=True)
            )
        }
        room = _room(session, cohort_id, len(found), enrolment, now)
        for far in found:
            row = rows.get(far.device)
            if row is None or _is_decided(row, cohort_id):
                continue
            comparison = {"audits": far.audits, "loss": far.loss, "others": far.others}
            if row.comparison is None:
                _log.warning(
                    "device %s: the loss of its audits is %.1f %%, that of its cohort %.1f %%",
                    row.name,
                    100 * far.loss,
                    100 * far.others,
                )
            row.set_aside_by, row.set_aside_at, row.comparison = CALIBRATOR, None, comparison
            row.decided_cohort_id = cohort_id
            if room:
                room -= 1
                row.set_aside_at = now
                add_event(session, cohort_id, "set aside", comparison, actor=CALIBRATOR, now=now, device_id=row.id)
            update_troubles(row, now=now)


def take_back_found(session: Session, cohort_id: int, *, now: datetime) -> None:
    """Let the devices of a cohort, which is locked, count again that no user has set aside."""
    query = select(DeviceRow).where(DeviceRow.decided_cohort_id == cohort_id, DeviceRow.comparison.is_not(None))
    for row in session.scalars(query.order_by(DeviceRow.id).with_for_update(key_share=True)):
        if row.set_aside_at is not None:
            details = {"cause": "alarm"}
            add_event(session, cohort_id, "taken back", details, actor=CALIBRATOR, now=now, device_id=row.id)
        row.set_aside_at = row.set_aside_by = row.comparison = row.decided_cohort_id = None
        update_troubles(row, now=now)


def _is_decided(row: DeviceRow, cohort_id: int) -> bool:
    """Return whether a device stays as it is: a user has decided, or it is set aside in this cohort already."""
    if row.set_aside_by is not None and row.comparison is None:
        return True
    return row.decided_cohort_id == cohort_id and row.set_aside_at is not None


def _room(session: Session, cohort_id: int, wanted: int, enrolment: Enrolment, now: datetime) -> int:
    """Return how many devices can be set aside now."""
    last = last_event(session, cohort_id, "set aside")
    if last is not None and last.actor == CALIBRATOR and now - last.time < _INTERVAL:
        return 0
    already = len(devices_set_aside(session, cohort_id))
    counted = number_of_counted(
        session, cohort_id, enrolment, now=now, limit=_DEVICES_PER_FOUND * (already + wanted) - already
    )
    return max((counted + already) // _DEVICES_PER_FOUND - already, 0)

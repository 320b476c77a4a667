"""The numbers of devices per cohort, revision and connection, from one index."""

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.tables import DeviceRow


class DeviceCount(NamedTuple):
    """The number of devices of a fleet that are alike."""

    fleet: str
    cohort_id: int | None
    """Null before the first state; then the next two are, too."""
    revision: int | None
    online: bool | None
    devices: int


def count_devices(session: Session, fleets: Iterable[str]) -> list[DeviceCount]:
    """Return the numbers of devices of these fleets."""
    key = (DeviceRow.fleet, DeviceRow.cohort_id, DeviceRow.revision, DeviceRow.online)
    query = select(*key, func.count()).where(DeviceRow.fleet.in_(list(fleets))).group_by(*key)
    return [DeviceCount(*row) for row in session.execute(query)]

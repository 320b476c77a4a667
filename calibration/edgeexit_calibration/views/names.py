"""Finds devices, cohorts and fleets by the names that a user writes; an unknown name is an error with the nearest ones.

No query reads all devices: the pairs of fleet and shard are found by jumps in the unique index of devices.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import groupby
from operator import itemgetter
from typing import Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from edgeexit.errors import EdgeExitError
from edgeexit_calibration.store.cohorts import CohortAddress
from edgeexit_calibration.store.tables import CohortRow, DeviceRow, FleetRow

_MAX_NAMED: Final = 3
_NEIGHBOURS: Final = 10
"""Names before and after an unknown one, per shard, among which the nearest ones are looked for."""
_SHARDS_SEARCHED: Final = 8
_SIMILARITY: Final = 0.5


class NameLookupError(EdgeExitError):
    """A name that a user wrote is unknown or not unique."""


def fleet_shards(session: Session, fleet: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield fleet and shard of all devices in their order."""
    for name in _values(session, DeviceRow.fleet) if fleet is None else [fleet]:
        for shard in _values(session, DeviceRow.shard, DeviceRow.fleet == name):
            yield name, shard


def fleet_names(session: Session) -> list[str]:
    """Return the fleets that have devices, cohorts or dropped messages, sorted."""
    others = (*session.scalars(select(CohortRow.fleet).distinct()), *session.scalars(select(FleetRow.fleet)))
    return sorted({*others, *_values(session, DeviceRow.fleet)})


def _values(session: Session, column: InstrumentedAttribute[str], *conditions: ColumnElement[bool]) -> Sequence[str]:
    """Return the values of a column in their order: one statement, with one jump in an index for each value."""
    first = select(func.min(column).label("value")).where(*conditions).cte("jumps", recursive=True)
    following = select(func.min(column)).where(*conditions, column > first.c.value).scalar_subquery()
    jumps = first.union_all(select(following).where(first.c.value.is_not(None)))
    return session.scalars(select(jumps.c.value).where(jumps.c.value.is_not(None))).all()


def check_fleet(session: Session, fleet: str) -> None:
    """Raise NameLookupError if nothing of this fleet is stored."""
    known = fleet_names(session)
    if fleet not in known:
        raise NameLookupError(f"fleet '{fleet}' is unknown{_nearest(fleet, known)}")


def find_named_device(session: Session, name: str) -> DeviceRow:
    """Return the device with the name `DEVICE`, `SHARD/DEVICE` or `FLEET/SHARD/DEVICE`.

    Raises NameLookupError if there is none, or more than one.
    """
    *path, device = name.split("/")
    places = [place for place in fleet_shards(session) if list(place)[len(place) - len(path) :] == path]
    found: list[DeviceRow] = []
    for fleet, group in groupby(places, key=itemgetter(0)):
        query = select(DeviceRow).where(DeviceRow.fleet == fleet, DeviceRow.shard.in_([shard for _, shard in group]))
        found += session.scalars(
            query.where(DeviceRow.device == device).order_by(DeviceRow.shard).limit(_MAX_NAMED + 1)
        )
    if not found:
        close = _nearest(device, _neighbours(session, device, places or list(fleet_shards(session))))
        raise NameLookupError(
            f"device '{name}' is unknown: it has sent nothing yet{close}; see `edgeexit calibrator devices`"
        )
    if len(found) > 1:
        raise NameLookupError(f"device '{name}' is not unique; write one of: {_some([row.name for row in found])}")
    return found[0]


def find_named_cohort(session: Session, name: str, *, fleet: str | None = None) -> CohortRow:
    """Return the cohort `COHORT`, `FLEET/COHORT`, `BUNDLE/COHORT` or `FLEET/BUNDLE/COHORT`; BUNDLE may be a prefix.

    Raises NameLookupError if there is none, or more than one.
    """
    *path, label = name.split("/")
    query = select(CohortRow).order_by(CohortRow.id)
    cohorts = session.scalars(query if fleet is None else query.filter_by(fleet=fleet)).all()
    found = [row for row in cohorts if row.cohort == label and _is_path_of(path, row)]
    if not found:
        close = _nearest(label, [row.cohort for row in cohorts])
        raise NameLookupError(f"cohort '{name}' is unknown{close}; see `edgeexit calibrator status`")
    if len(found) > 1:
        raise NameLookupError(
            f"cohort '{name}' is not unique; write one of: {_some([str(address_of(row)) for row in found])}"
        )
    return found[0]


def address_of(cohort: CohortRow) -> CohortAddress:
    """Return the address of a cohort."""
    return CohortAddress(cohort.fleet, cohort.bundle, cohort.cohort)


def _is_path_of(path: list[str], cohort: CohortRow) -> bool:
    """Return True for `[]`, `[FLEET]`, `[BUNDLE]` and `[FLEET, BUNDLE]` of a cohort."""
    levels = [cohort.fleet, cohort.bundle]
    if len(path) == len(levels):
        return path[0] == cohort.fleet and cohort.bundle.startswith(path[1])
    return not path or (len(path) == 1 and (path[0] == cohort.fleet or cohort.bundle.startswith(path[0])))


def _neighbours(session: Session, device: str, places: Sequence[tuple[str, str]]) -> list[str]:
    """Return the names around an unknown one in the order of names."""
    names: list[str] = []
    for fleet, shard in places[:_SHARDS_SEARCHED]:
        query = select(DeviceRow.device).filter_by(fleet=fleet, shard=shard).limit(_NEIGHBOURS)
        names += session.scalars(query.where(DeviceRow.device > device).order_by(DeviceRow.device))
        names += session.scalars(query.where(DeviceRow.device < device).order_by(DeviceRow.device.desc()))
    return names


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, dict.fromkeys(known), _MAX_NAMED, _SIMILARITY)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")

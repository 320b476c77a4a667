"""Reads a page of devices in the order of their names, for a million devices as fast as for a thousand.

A page continues after a name; there is no OFFSET. If at most `_MAX_CANDIDATES` devices meet the conditions, an index of
the conditions finds them, and they are sorted. Otherwise so many do that a walk through the index of the names meets
enough of them soon.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Select, func, literal_column, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.cohorts import find_cohort
from edgeexit_calibration.store.tables import DeviceRow
from edgeexit_calibration.store.troubles import Trouble
from edgeexit_calibration.views.device_filter import DeviceFilter
from edgeexit_calibration.views.names import NameLookupError, fleet_names, fleet_shards

_MAX_CANDIDATES: Final = 5000
_LAST_CHARACTER: Final = "\U0010ffff"
IN_TROUBLE: Final[ColumnElement[bool]] = DeviceRow.troubles != literal_column("0")
"""Written as in the partial index, so that the database recognises it."""


def read_page(
    session: Session, fleet: str | None, where: DeviceFilter, after: str | None, limit: int
) -> Sequence[DeviceRow]:
    """Return the first `limit` devices after FLEET/SHARD/DEVICE that meet the conditions.

    Raises NameLookupError for an `after` with another form.
    """
    cohort_id = None
    if where.cohort is not None:
        cohort = find_cohort(session, where.cohort)
        if cohort is None or fleet not in (None, cohort.fleet):
            return []
        cohort_id, fleet = cohort.id, cohort.fleet
    start = ("", "", "") if after is None else _parts_of(after)
    fleets = fleet_names(session) if fleet is None else [fleet]
    if (candidates := _candidates(session, fleets, cohort_id, where)) is not None:
        return _sorted_page(session, candidates, where, start, limit)
    conditions = [*_prefix_range(where), *_states(cohort_id, where)]
    if where.trouble is not None:
        conditions.append(DeviceRow.troubles.bitwise_and(int(where.trouble)) != 0)
    places = [place for place in fleet_shards(session, fleet) if where.shard in (None, place[1])]
    return _walk(session, places, start, conditions, limit)


def _sorted_page(
    session: Session, candidates: Select[int], where: DeviceFilter, after: tuple[str, ...], limit: int
) -> list[DeviceRow]:
    """Return the first devices after a name among a few candidates.

    They are sorted here, because PostgreSQL would rather walk through the index of all names to find them in order.
    """
    names = candidates.add_columns(DeviceRow.fleet, DeviceRow.shard, DeviceRow.device).where(*_prefix_range(where))
    found = [(tuple(name), key) for key, *name in session.execute(names)]
    chosen = [(name, key) for name, key in found if name > after and where.shard in (None, name[1])]
    keys = [key for _, key in sorted(chosen)[:limit]]
    rows = {row.id: row for row in session.scalars(select(DeviceRow).where(DeviceRow.id.in_(keys)))}
    return [rows[key] for key in keys]


def _walk(
    session: Session,
    places: Sequence[tuple[str, str]],
    after: tuple[str, ...],
    conditions: Sequence[ColumnElement[bool]],
    limit: int,
) -> list[DeviceRow]:
    """Return the first devices after a name, shard by shard, so that each query is one range of an index of names."""
    rows: list[DeviceRow] = []
    for place in places:
        if place < after[:-1]:
            continue
        query = select(DeviceRow).where(DeviceRow.fleet == place[0], DeviceRow.shard == place[1], *conditions)
        if place == after[:-1]:
            query = query.where(DeviceRow.device > after[-1])
        rows += session.scalars(query.order_by(DeviceRow.device).limit(limit - len(rows)))
        if len(rows) >= limit:
            break
    return rows


def _candidates(
    session: Session, fleets: Sequence[str], cohort_id: int | None, where: DeviceFilter
) -> Select[int] | None:
    """Return a query of the devices that meet the conditions; None without conditions, or if there are too many."""
    if where.trouble is not None:
        values = flag_values(session, fleets, where.trouble)
        conditions = [DeviceRow.fleet.in_(fleets), IN_TROUBLE, DeviceRow.troubles.in_(values)]
    elif where.online is not None or where.revision is not None:
        conditions = [DeviceRow.fleet.in_(fleets)]
    else:
        return None
    query = select(DeviceRow.id).where(*conditions, *_states(cohort_id, where))
    number = session.scalar(select(func.count()).select_from(query.limit(_MAX_CANDIDATES + 1).subquery())) or 0
    return query if number <= _MAX_CANDIDATES else None


def flag_values(session: Session, fleets: Sequence[str], trouble: Trouble) -> list[int]:
    """Return the values of `device.troubles` that occur and contain one of these flags."""
    query = select(DeviceRow.troubles).where(DeviceRow.fleet.in_(fleets), IN_TROUBLE).distinct()
    return sorted(value for value in session.scalars(query) if value & trouble)


def _states(cohort_id: int | None, where: DeviceFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if cohort_id is not None:
        conditions.append(DeviceRow.cohort_id == cohort_id)
    if where.revision is not None:
        conditions.append(DeviceRow.revision == where.revision)
    if where.online is not None:
        conditions.append(DeviceRow.online.is_(where.online))
    return conditions


def _prefix_range(where: DeviceFilter) -> list[ColumnElement[bool]]:
    """Return the range of names with a prefix; names compare by code points on every database."""
    if not where.prefix:
        return []
    return [DeviceRow.device >= where.prefix, DeviceRow.device < where.prefix + _LAST_CHARACTER]


def _parts_of(name: str) -> tuple[str, ...]:
    parts = tuple(name.split("/"))
    if len(parts) != len(("fleet", "shard", "device")):
        raise NameLookupError(f"device '{name}' must be written as FLEET/SHARD/DEVICE, as the last one of a page")
    return parts

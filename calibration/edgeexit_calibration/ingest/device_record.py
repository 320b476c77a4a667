"""The columns of a device that a state, a key or a loss can change, read and written for many devices at once."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Connection, select

from edgeexit_calibration.ingest.bulk_write import driver_value, key_chunks, table_of, update_rows
from edgeexit_calibration.store.tables import DeviceRow

_DEVICES: Final = table_of(DeviceRow)
_CHANGED: Final = (
    "state", "last_seen", "key", "offered_key", "starts", "clone_starts", "clone_seen_at", "cohort_id", "revision",
    "online", "troubles", "losses", "losses_at",
)  # fmt: skip
_changing: Final = attrgetter(*_CHANGED)
_READ: Final = ("id", *_CHANGED, "revoked_at", "set_aside_at", "comparison", "drops", "last_drop_at")


class DeviceRecord:
    """A device; the attributes are columns of its row. Replace values, do not change them in place."""

    __slots__ = (*_READ, "_before")

    id: int
    state: str | None
    last_seen: datetime
    key: str | None
    offered_key: str | None
    starts: dict[str, Any]
    clone_starts: list[str]
    clone_seen_at: datetime | None
    cohort_id: int | None
    revision: int | None
    online: bool | None
    troubles: int
    losses: dict[str, Any]
    losses_at: datetime | None
    revoked_at: datetime | None
    set_aside_at: datetime | None
    comparison: dict[str, Any] | None
    drops: dict[str, Any]
    last_drop_at: datetime | None

    def __init__(self, values: Iterable[Any]) -> None:
        for name, value in zip(_READ, values, strict=True):
            setattr(self, name, value)
        self._before = _changing(self)

    @property
    def is_changed(self) -> bool:
        """True if a value differs from that in the database."""
        return _changing(self) != self._before

    def row(self, connection: Connection) -> tuple[Any, ...]:
        """Return the values that can change, and the id, as the driver wants them."""
        return (*(driver_value(value, connection.dialect) for value in _changing(self)), self.id)


def locked_records(connection: Connection, numbers: Iterable[int]) -> dict[int, DeviceRecord]:
    """Return devices by id; until the end of the transaction, no other process changes them."""
    records: dict[int, DeviceRecord] = {}
    columns = [_DEVICES.c[name] for name in _READ]
    for chunk in key_chunks(sorted(numbers)):
        query = select(*columns).where(_DEVICES.c.id.in_(chunk)).order_by(_DEVICES.c.id).with_for_update(key_share=True)
        for row in connection.execute(query):
            records[row[0]] = DeviceRecord(row)
    return records


def write_records(connection: Connection, records: Sequence[DeviceRecord]) -> None:
    """Write the devices that have changed."""
    rows = [record.row(connection) for record in records if record.is_changed]
    update_rows(connection, _DEVICES, ("id",), _CHANGED, rows)

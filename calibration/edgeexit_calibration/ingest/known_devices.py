"""The devices that have sent a message, as far as storing the next one needs them.

What a user decides about a device (its key, a revocation, a clone that was resolved) is read again for every batch,
because another process writes it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import Connection, func, select, tuple_

from edgeexit.wire import DeviceAddress, Losses
from edgeexit_calibration.ingest.bounded_cache import BoundedCache
from edgeexit_calibration.ingest.bulk_write import (
    driver_value,
    insert_rows,
    is_postgresql,
    key_chunks,
    new_ids,
    table_of,
    upsert_rows,
)
from edgeexit_calibration.ingest.enrolment import is_counted
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.store.tables import DeviceRow, ShardRow

_DEVICES: Final = table_of(DeviceRow)
_COLUMNS: Final = (
    "id", "fleet", "shard", "device", "first_seen", "last_seen", "starts", "clone_starts", "audited_samples", "losses",
    "drops", "troubles",
)  # fmt: skip
_NOTHING: Final = ("{}", "[]", 0, "{}", "{}", 0)
"""The last columns of a device of which nothing is known."""
_SHARDS: Final = table_of(ShardRow)
_MAX_ENTRIES: Final = 200_000
_DECIDED: Final = "SELECT id, key, revoked_at IS NOT NULL, clone_seen_at IS NOT NULL FROM device WHERE id {}"


class KnownDevice:
    """A row of the table of devices, without what only some messages need.

    Attributes:
        id: its primary key.
        address: fleet, shard and name.
        key: the public key whose audits are stored, or None.
        revoked: True if nothing that it sends under a number is stored.
        cloned: True if a clone was noticed and no user has cleared it.
        counted: True if what it sends counts in the figures of its cohort.
        last_seen: the time in the database, which may be behind.
        losses: the messages that the device has given up, as in the database.

    """

    __slots__ = ("address", "cloned", "counted", "id", "key", "last_seen", "losses", "revoked")

    def __init__(self, number: int, address: DeviceAddress, last_seen: datetime, losses: Losses) -> None:
        self.id = number
        self.address = address
        self.key: str | None = None
        self.revoked = self.cloned = False
        self.counted = False
        self.last_seen = last_seen
        self.losses = losses


class KnownDevices:
    """Finds devices, and adds those that are new. Only one thread may use it.

    Args:
        rules: how many devices a fleet may have, and which of them count.

    """

    def __init__(self, rules: IngestRules) -> None:
        self._rules = rules
        self._known: BoundedCache[DeviceAddress, KnownDevice] = BoundedCache(_MAX_ENTRIES)

    def forget(self) -> None:
        """Read every device again when it is needed."""
        self._known.clear()

    def find(
        self, connection: Connection, addresses: Iterable[DeviceAddress], *, now: datetime
    ) -> dict[DeviceAddress, KnownDevice]:
        """Return the devices of these addresses, without those for which the fleet has no room."""
        found: dict[DeviceAddress, KnownDevice] = {}
        missing: list[DeviceAddress] = []
        for address in addresses:
            device = self._known.get(address)
            if device is None:
                missing.append(address)
            else:
                found[address] = device
        self._refresh(connection, found)
        if missing:
            self._read(connection, missing, found)
            self._add(connection, [address for address in missing if address not in found], found, now=now)
        return found

    def decide(
        self, device: KnownDevice, key: str | None, revoked_at: datetime | None, clone_seen_at: datetime | None
    ) -> None:
        """Take over what the columns of a device say about whether its messages are stored and count."""
        device.key = key
        device.revoked, device.cloned = revoked_at is not None, clone_seen_at is not None
        device.counted = is_counted(
            key=key, revoked_at=revoked_at, clone_seen_at=clone_seen_at, enrolment=self._rules.enrolment
        )

    def _refresh(self, connection: Connection, devices: dict[DeviceAddress, KnownDevice]) -> None:
        """Read again what users decide: one cheap query for all, and another one for those that have changed."""
        by_id = {device.id: device for device in devices.values()}
        if not by_id:
            return
        if is_postgresql(connection):
            rows = connection.exec_driver_sql(_DECIDED.format("= ANY(%b::integer[])"), (list(by_id),))
        else:
            numbers = msgspec.json.encode(list(by_id)).decode()
            rows = connection.exec_driver_sql(_DECIDED.format("IN (SELECT value FROM json_each(?))"), (numbers,))
        changed = [
            number
            for number, key, revoked, cloned in rows.all()  # reads them at once, unlike an iteration
            if (known := by_id[number]).key != key or known.revoked != revoked or known.cloned != cloned
        ]
        columns = (DeviceRow.id, DeviceRow.key, DeviceRow.revoked_at, DeviceRow.clone_seen_at)
        for chunk in key_chunks(changed):
            query = select(*columns).where(DeviceRow.id.in_(chunk))
            for number, key, revoked_at, clone_seen_at in connection.execute(query):
                self.decide(by_id[number], key, revoked_at, clone_seen_at)

    def _read(
        self, connection: Connection, addresses: Sequence[DeviceAddress], found: dict[DeviceAddress, KnownDevice]
    ) -> None:
        place = (DeviceRow.fleet, DeviceRow.shard, DeviceRow.device)
        decided = (DeviceRow.key, DeviceRow.revoked_at, DeviceRow.clone_seen_at)
        query = select(DeviceRow.id, DeviceRow.last_seen, DeviceRow.losses, *place, *decided)
        for chunk in key_chunks(addresses):
            for row in connection.execute(query.where(tuple_(*place).in_(chunk))):
                address = DeviceAddress(row.fleet, row.shard, row.device)
                device = KnownDevice(row.id, address, row.last_seen, msgspec.convert(row.losses, Losses))
                self.decide(device, row.key, row.revoked_at, row.clone_seen_at)
                found[address] = device
                self._known.put(address, device)

    def _add(
        self,
        connection: Connection,
        addresses: Sequence[DeviceAddress],
        found: dict[DeviceAddress, KnownDevice],
        *,
        now: datetime,
    ) -> None:
        if not addresses:
            return
        count = select(func.count()).select_from(DeviceRow).where(DeviceRow.fleet == addresses[0].fleet)
        added = addresses[: max(0, self._rules.quotas.max_devices - connection.execute(count).scalar_one())]
        numbers = new_ids(connection, _DEVICES, len(added))
        time = driver_value(now, connection.dialect)
        rows = [(number, *address, time, time, *_NOTHING) for number, address in zip(numbers, added, strict=True)]
        insert_rows(connection, _DEVICES, _COLUMNS, rows)
        for number, address in zip(numbers, added, strict=True):
            device = KnownDevice(number, address, now, Losses())
            self.decide(device, None, None, None)
            found[address] = device
            self._known.put(address, device)
        shards = {(address.fleet, address.shard, time) for address in added}
        upsert_rows(connection, _SHARDS, ("fleet", "shard", "first_seen"), list(shards), kept=True)

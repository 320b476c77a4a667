"""Counts the messages that are not stored, by device and cause, and writes the counts into the database."""

import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from edgeexit.limited_log import LimitedLog
from edgeexit.log_text import one_line
from edgeexit.wire import DeviceAddress, State
from edgeexit_calibration.store.insert_missing import insert_missing
from edgeexit_calibration.store.tables import DeviceRow, FleetRow
from edgeexit_calibration.store.troubles import troubles_of_row

DropCause = Literal[
    "invalid", "unreadable", "qos 0", "over quota", "too many devices", "too many cohorts", "key not approved",
    "revoked", "expired", "other cohort", "impossible audit", "internal error",
]  # fmt: skip
"""Why a message was not stored. `invalid` messages had a number, so their device got a refusal.

An `impossible audit` was signed by its device, and no honest device can have sent it; see `audit_check`.

Two kinds of reports are acknowledged: `expired` ones, because the counters of their start were removed because of their
age, and those of an `other cohort`, or with another number of exits, than the first one of their start and revision.
"""

_log = logging.getLogger(__name__)

_MAX_DEVICES: Final = 1000
"""Counts of more devices between two transactions are counts of the fleet."""


class Drop(NamedTuple):
    """A message that is not stored."""

    address: DeviceAddress | None
    """The device, or None if the topic does not name one."""
    cause: DropCause
    detail: str


class _DropTally:
    """The number of drops of one device or fleet, and the newest one."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.detail = ""

    def add(self, cause: str, detail: str, count: int = 1) -> None:
        self.counts[cause] = self.counts.get(cause, 0) + count
        self.detail = f"{cause}: {detail}"


class DropCounter:
    """Counts drops until they are written, and logs them, the same one not too often. Thread-safe."""

    def __init__(self, fleet: str) -> None:
        self.total = 0
        """Number of drops since the start."""
        self._fleet = fleet
        self._repeats = LimitedLog(_log)
        self._lock = threading.Lock()
        self._pending: dict[DeviceAddress | None, _DropTally] = {}

    def add(self, drop: Drop) -> None:
        """Count a message."""
        with self._lock:
            self.total += 1
            is_full = drop.address not in self._pending and len(self._pending) >= _MAX_DEVICES
            self._pending.setdefault(None if is_full else drop.address, _DropTally()).add(drop.cause, drop.detail)
        where = "a topic that names no device" if drop.address is None else "/".join(drop.address)
        self._repeats.warning(
            (drop.address, drop.cause), "%s: message not stored (%s): %s", where, drop.cause, drop.detail
        )

    @property
    def has_pending(self) -> bool:
        """True if there are counts to be written."""
        return bool(self._pending)

    def take(self) -> "PendingDrops":
        """Return the counts to be written; `put_back` them if the transaction fails."""
        with self._lock:
            taken, self._pending = self._pending, {}
        return PendingDrops(self._fleet, taken)

    def put_back(self, pending: "PendingDrops") -> None:
        """Count again what could not be written."""
        with self._lock:
            for address, tally in pending.tallies.items():
                for cause, count in tally.counts.items():
                    known = self._pending.setdefault(address, _DropTally())
                    known.counts[cause] = known.counts.get(cause, 0) + count
                    known.detail = known.detail or tally.detail


class PendingDrops(NamedTuple):
    """Counts that one transaction writes."""

    fleet: str
    tallies: Mapping[DeviceAddress | None, _DropTally]

    def write(self, session: Session, *, now: datetime) -> None:
        """Add the counts to the devices in the database; those of unknown devices are counts of the fleet.

        Processes write the row of the fleet one after the other, so call this at the end of a transaction.
        """
        if not self.tallies:
            return
        addresses = [address for address in self.tallies if address is not None]
        devices = _locked_devices(session, addresses) if addresses else {}
        unknown = _DropTally()
        for address, tally in self.tallies.items():
            device = None if address is None else devices.get(address)
            if device is None:
                for cause, count in tally.counts.items():
                    unknown.add(cause, "", count)
                named = "" if address is None else f" (device '{address.shard}/{address.device}')"
                unknown.detail = tally.detail + named
            else:
                device.drops = _sum(device.drops, tally.counts)
                device.last_drop, device.last_drop_at = one_line(tally.detail), now
                state = None if device.state is None else msgspec.json.decode(device.state, type=State)
                device.troubles = int(troubles_of_row(device, state, now=now))
        if unknown.counts:
            session.flush()  # devices first, then the fleet: two processes never wait for each other
            row = _locked_fleet(session, self.fleet, now)
            row.drops, row.last_drop, row.last_drop_at = _sum(row.drops, unknown.counts), one_line(unknown.detail), now


def _locked_devices(session: Session, addresses: Sequence[DeviceAddress]) -> dict[DeviceAddress, DeviceRow]:
    key = tuple_(DeviceRow.fleet, DeviceRow.shard, DeviceRow.device)
    query = select(DeviceRow).where(key.in_(addresses)).order_by(DeviceRow.id).with_for_update()
    rows = session.scalars(query.execution_options(populate_existing=True))
    return {DeviceAddress(row.fleet, row.shard, row.device): row for row in rows}


def _locked_fleet(session: Session, fleet: str, now: datetime) -> FleetRow:
    insert_missing(session, FleetRow, {"fleet": fleet, "drops": {}, "last_drop": "", "last_drop_at": now})
    query = select(FleetRow).filter_by(fleet=fleet).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _sum(known: Mapping[str, Any], added: Mapping[str, int]) -> dict[str, Any]:
    return {cause: known.get(cause, 0) + added.get(cause, 0) for cause in (*known, *added)}

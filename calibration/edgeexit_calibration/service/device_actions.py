"""What a user decides about one device: approve its key, revoke it, mark a clone as resolved."""

from datetime import datetime

import msgspec
from sqlalchemy.orm import Session

from edgeexit.errors import EdgeExitError
from edgeexit.wire import State
from edgeexit_calibration.ingest.enrolment import INVALID, short_key
from edgeexit_calibration.store.cohorts import add_event
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import DeviceRow
from edgeexit_calibration.store.troubles import troubles_of_row
from edgeexit_calibration.views.names import find_named_device


class DeviceError(EdgeExitError):
    """The key of a device is unknown, or it has no clone."""


def approve_device(database: Database, device: str, key: str | None, *, user: str, now: datetime) -> tuple[str, str]:
    """Enrol a device with a key; return FLEET/SHARD/DEVICE and the key's id.

    Args:
        database: contains the device.
        device: `DEVICE`, `SHARD/DEVICE` or `FLEET/SHARD/DEVICE`.
        key: id of the key to approve, as `edgeexit calibrator status` shows it; or the public key itself, which need
            not have been seen, because a forger can show other keys all the time. None: the key that waits, if the
            device is not enrolled with another one yet; then a forger may have sent the newest key.
        user: name of the user, for the audit log.
        now: the time.

    Raises NameLookupError if there is no such device, DeviceError if it has no such key, and DatabaseError.

    """
    with database.writing() as session:
        row = _locked_device(session, device)
        name = row.name
        known = [text for text in (row.offered_key, row.key) if text is not None]
        if key is not None and short_key(key) != INVALID:
            known.append(key)
        if not known:
            raise DeviceError(f"device '{name}' has not shown a key yet; its first state or audit contains it")
        if key is None and len(known) > 1:
            raise DeviceError(
                f"device '{name}' is enrolled with key {short_key(known[1])} and signs with another one; name the "
                f"right key, e.g. --key {short_key(known[0])}"
            )
        chosen = next((text for text in known if key in (None, short_key(text), text)), None)
        if chosen is None:
            shown = ", ".join(short_key(text) for text in known)
            raise DeviceError(f"device '{name}' has not signed with key '{key}'; its keys: {shown}")
        details = {"key": short_key(chosen), "before": None if row.key is None else short_key(row.key)}
        row.key, row.revoked_at = chosen, None
        if row.offered_key == chosen:
            row.offered_key = None
        _update_troubles(row, now)
        add_event(session, None, "approved", details, actor=user, now=now, device_id=row.id)
        return name, short_key(chosen)


def revoke_device(database: Database, device: str, *, user: str, now: datetime) -> str:
    """Store nothing more that a device numbers, until it is approved again; return FLEET/SHARD/DEVICE.

    Raises NameLookupError if there is no such device, and DatabaseError.
    """
    with database.writing() as session:
        row = _locked_device(session, device)
        row.revoked_at = now
        details = {"key": None if row.key is None else short_key(row.key)}
        _update_troubles(row, now)
        add_event(session, None, "revoked", details, actor=user, now=now, device_id=row.id)
        return row.name


def clear_device_clone(database: Database, device: str, *, user: str, now: datetime) -> str:
    """Forget that two agents with the name of a device were seen; return FLEET/SHARD/DEVICE.

    From then on, its reports and audits count again. Raises NameLookupError if there is no such device, DeviceError if
    no clone was noticed, and DatabaseError.
    """
    with database.writing() as session:
        row = _locked_device(session, device)
        if row.clone_seen_at is None:
            raise DeviceError(f"no second agent with the name of device '{row.name}' was noticed")
        add_event(session, None, "clone cleared", {"starts": row.clone_starts}, actor=user, now=now, device_id=row.id)
        row.clone_starts, row.clone_seen_at = [], None
        _update_troubles(row, now)
        return row.name


def _locked_device(session: Session, name: str) -> DeviceRow:
    """Return a device by its name; the service does not change it until the end of the transaction."""
    row = find_named_device(session, name)
    session.refresh(row, with_for_update={"key_share": True})
    return row


def _update_troubles(row: DeviceRow, now: datetime) -> None:
    state = None if row.state is None else msgspec.json.decode(row.state, type=State)
    row.troubles = int(troubles_of_row(row, state, now=now))

"""What a user decides about one device: approve its key, revoke it, mark a clone as resolved."""

from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.errors import EdgeExitError
from edgeexit_calibration.ingest.enrolment import INVALID, short_key
from edgeexit_calibration.store.cohorts import add_event
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import DeviceRow

_MAX_NAMED: Final = 3


class DeviceError(EdgeExitError):
    """A device or its key is unknown, or its name is not unique."""


def find_device(session: Session, name: str) -> DeviceRow:
    """Return the device with the name `DEVICE`, `SHARD/DEVICE` or `FLEET/SHARD/DEVICE`.

    Raises DeviceError if there is none, or more than one.
    """
    levels = name.split("/")
    columns = dict(zip(("device", "shard", "fleet"), reversed(levels), strict=False))
    rows = session.scalars(select(DeviceRow).filter_by(**columns).order_by(DeviceRow.id).limit(_MAX_NAMED + 1)).all()
    if len(levels) > len(columns) or not rows:
        raise DeviceError(f"device '{name}' is unknown: it has sent nothing yet; see `edgeexit calibrator status`")
    if len(rows) > 1:
        some = ", ".join(row.name for row in rows[:_MAX_NAMED])
        raise DeviceError(
            f"device '{name}' is not unique; write one of: {some}{', ...' if len(rows) > _MAX_NAMED else ''}"
        )
    return rows[0]


def approve_device(database: Database, device: str, key: str | None, *, user: str, now: datetime) -> tuple[str, str]:
    """Enrol a device with a key; return FLEET/SHARD/DEVICE and the key's id.

    Args:
        database: contains the device.
        device: see `find_device`.
        key: id of the key to approve, as `edgeexit calibrator status` shows it; or the public key itself, which need
            not have been seen, because a forger can show other keys all the time. None: the key that waits, if the
            device is not enrolled with another one yet; then a forger may have sent the newest key.
        user: name of the user, for the audit log.
        now: the time.

    Raises DeviceError if there is no such device or key, and DatabaseError.

    """
    with database.writing() as session:
        row = find_device(session, device)
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
        add_event(session, None, "approved", details, actor=user, now=now, device_id=row.id)
        return name, short_key(chosen)


def revoke_device(database: Database, device: str, *, user: str, now: datetime) -> str:
    """Store nothing more that a device numbers, until it is approved again; return FLEET/SHARD/DEVICE.

    Raises DeviceError if there is no such device, and DatabaseError.
    """
    with database.writing() as session:
        row = find_device(session, device)
        row.revoked_at = now
        details = {"key": None if row.key is None else short_key(row.key)}
        add_event(session, None, "revoked", details, actor=user, now=now, device_id=row.id)
        return row.name


def clear_device_clone(database: Database, device: str, *, user: str, now: datetime) -> str:
    """Forget that two agents with the name of a device were seen; return FLEET/SHARD/DEVICE.

    Raises DeviceError if there is no such device, or no clone was noticed, and DatabaseError.
    """
    with database.writing() as session:
        row = find_device(session, device)
        if row.clone_seen_at is None:
            raise DeviceError(f"no second agent with the name of device '{row.name}' was noticed")
        add_event(session, None, "clone cleared", {"starts": row.clone_starts}, actor=user, now=now, device_id=row.id)
        row.clone_starts, row.clone_seen_at = [], None
        return row.name

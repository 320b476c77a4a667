"""What a user decides about one device: its key, its revocation, a clone, and whether its audits count."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit.errors import EdgeExitError
from edgeexit_calibration.ingest.enrolment import INVALID, short_key
from edgeexit_calibration.store.cohorts import add_event
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import DeviceRow
from edgeexit_calibration.store.troubles import update_troubles
from edgeexit_calibration.views.names import find_named_device


class DeviceError(EdgeExitError):
    """What a user wants to do with a device is not possible as it is now."""


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
        update_troubles(row, now=now)
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
        update_troubles(row, now=now)
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
        update_troubles(row, now=now)
        return row.name


def set_device_aside(database: Database, device: str, *, user: str, now: datetime) -> str:
    """Let the audits of a device count in no certificate and no alarm any more; return FLEET/SHARD/DEVICE.

    They are still stored. Raises NameLookupError if there is no such device, DeviceError if it has no cohort, is set
    aside already by a user, or fewer than half of the devices of its cohort would count, and DatabaseError.
    """
    with database.writing() as session:
        row = _locked_device(session, device)
        if row.cohort_id is None:
            raise DeviceError(f"device '{row.name}' has no cohort yet; its first state names it")
        is_aside = row.set_aside_at is not None and row.decided_cohort_id == row.cohort_id
        if is_aside and row.comparison is None:
            raise DeviceError(f"device '{row.name}' was already set aside by {row.set_aside_by}")
        if not is_aside:
            in_cohort = select(func.count()).select_from(DeviceRow).filter_by(cohort_id=row.cohort_id)
            devices = session.scalar(in_cohort) or 0
            decided = in_cohort.where(DeviceRow.decided_cohort_id == row.cohort_id)
            aside = session.scalar(decided.where(DeviceRow.set_aside_at.is_not(None))) or 0
            if 2 * (aside + 1) > devices:
                raise DeviceError(
                    f"device '{row.name}' cannot be set aside: {aside} of the {devices} devices of its cohort are, and "
                    "at least half must count; take another one back with --back, or give it a cohort of its own"
                )
            row.set_aside_at = now
        row.set_aside_by, row.comparison, row.decided_cohort_id = user, None, row.cohort_id
        update_troubles(row, now=now)
        add_event(session, row.cohort_id, "set aside", {}, actor=user, now=now, device_id=row.id)
        return row.name


def take_device_back(database: Database, device: str, *, user: str, now: datetime) -> str:
    """Let the audits of a device count that is set aside or far from its cohort; return FLEET/SHARD/DEVICE.

    The calibrator does not set it aside by itself any more. Raises NameLookupError if there is no such device,
    DeviceError if its audits count and it is not far from its cohort, and DatabaseError.
    """
    with database.writing() as session:
        row = _locked_device(session, device)
        if row.set_aside_at is None and row.comparison is None:
            raise DeviceError(f"device '{row.name}' is not set aside; its audits count")
        row.set_aside_at, row.set_aside_by, row.comparison = None, user, None
        update_troubles(row, now=now)
        add_event(session, row.decided_cohort_id, "taken back", {}, actor=user, now=now, device_id=row.id)
        return row.name


def _locked_device(session: Session, name: str) -> DeviceRow:
    """Return a device by its name; the service does not change it until the end of the transaction."""
    row = find_named_device(session, name)
    session.refresh(row, with_for_update={"key_share": True})
    return row

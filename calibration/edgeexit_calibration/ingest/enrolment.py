"""Decides whose audits are stored, and which devices count in the figures of their cohort.

The identity key of a device is pinned when it is first seen, or when approved. Only audits are signed, because they
steer the thresholds of a fleet. Reports steer nothing.
"""

from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy.orm import Session

from edgeexit.errors import SignatureError
from edgeexit.signing import key_id, public_key_from_text
from edgeexit_calibration.ingest.device_record import DeviceRecord
from edgeexit_calibration.store.cohorts import CALIBRATOR, add_event, last_device_event

Enrolment = Literal["open", "approve"]
"""`open`: the first key that signs an audit of a device is pinned. `approve`: a user approves each key."""

_EVENT_INTERVAL: Final = timedelta(days=1)
INVALID: Final = "invalid"
"""Instead of the id of something that is not a public key."""
REVOKED: Final = "the device is revoked; approve it again to store its messages"


def short_key(key: str) -> str:
    """Return the id of a public key in base64, as people compare it: 16 hex digits; `INVALID` for any other text."""
    try:
        return key_id(public_key_from_text(key))
    except SignatureError:
        return INVALID


def is_counted(
    *, key: str | None, revoked_at: datetime | None, clone_seen_at: datetime | None, enrolment: Enrolment
) -> bool:
    """Return True if what a device sends counts in totals and guarantees; the values are the columns of the device.

    A device that does not count is still stored and shown. A clone counts again after `clear-clone`, not after a time:
    nobody knows until then which of the two agents is the device.
    """
    return revoked_at is None and clone_seen_at is None and (enrolment == "open" or key is not None)


def check_key(session: Session, device: DeviceRecord, key: str, enrolment: Enrolment, now: datetime) -> str | None:
    """Return None if an audit that `key` signed is to be stored, else why not; pin the key if it is the first one.

    Any other key is offered to the user, who decides with `approve`. The device must not be revoked.
    """
    if device.key == key:
        return None
    if device.key is None and enrolment == "open":
        device.key, device.offered_key = key, None
        details = {"key": short_key(key), "how": "first key seen"}
        add_event(session, None, "key pinned", details, actor=CALIBRATOR, now=now, device_id=device.id)
        return None
    if device.key is None:
        device.offered_key = key
        return f"key {short_key(key)} waits for an approval by the operator"
    if device.offered_key != key:
        device.offered_key = key
        last = last_device_event(session, device.id, "key changed")
        if last is None or now - last.time > _EVENT_INTERVAL:  # a forger has any number of keys
            details = {"key": short_key(device.key), "offered": short_key(key)}
            add_event(session, None, "key changed", details, actor=CALIBRATOR, now=now, device_id=device.id)
    return (
        f"signed with key {short_key(key)}, but the device is enrolled with key {short_key(device.key)}; the operator "
        "must approve the new key"
    )

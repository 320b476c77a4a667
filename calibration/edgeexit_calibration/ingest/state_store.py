"""Stores what changes the row of a device: its states, the messages it has given up, clones."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from sqlalchemy.orm import Session

from edgeexit.wire import Losses, State
from edgeexit_calibration.ingest.clones import see_start
from edgeexit_calibration.ingest.device_record import DeviceRecord
from edgeexit_calibration.ingest.enrolment import short_key
from edgeexit_calibration.store.cohorts import CALIBRATOR, add_event
from edgeexit_calibration.store.troubles import SHOWN_FOR, troubles_of

_STATE: Final = msgspec.json.Decoder(State)


class AcceptedState(NamedTuple):
    """A state that is to be stored, with the id of its cohort."""

    cohort_id: int
    state: State
    retained: bool
    """True if the broker stored the message, so that the device may have ended since."""


def store_states(session: Session, device: DeviceRecord, states: Sequence[AcceptedState], *, now: datetime) -> None:
    """Store the states of a device in their order."""
    known = None if device.state is None else _STATE.decode(device.state)
    for cohort_id, state, retained in states:
        if state.online and not retained:
            _record_start(session, device, state, now)
        if device.key is None and device.offered_key is None:
            device.offered_key = state.key  # not proven yet, but a user can approve it before the first audit
        newest = state
        if not state.online and known is not None and known.start == state.start:
            newest = msgspec.structs.replace(known, online=False)  # a will repeats the state at connect time
        content = msgspec.json.encode(newest).decode()
        if content != device.state:
            device.state, device.last_seen = content, now
        device.cohort_id, device.revision, device.online = cohort_id, newest.revision, newest.online
        known = newest


def store_losses(device: DeviceRecord, losses: Losses, *, now: datetime) -> None:
    """Store the messages that a device has given up."""
    counts = msgspec.to_builtins(losses)
    if any(count > device.losses.get(cause, 0) for cause, count in counts.items()):
        device.losses_at = now
    device.losses = counts


def store_troubles(device: DeviceRecord, *, now: datetime) -> None:
    """Store what may need attention, after other columns have changed."""
    troubles = troubles_of(
        None if device.state is None else _STATE.decode(device.state),
        key=device.key,
        offered_key=device.offered_key,
        revoked_at=device.revoked_at,
        clone_seen_at=device.clone_seen_at,
        set_aside_at=device.set_aside_at,
        comparison=device.comparison,
        losses_at=device.losses_at,
        drops=device.drops,
        last_drop_at=device.last_drop_at,
        now=now,
    )
    device.troubles = int(troubles)


def _record_start(session: Session, device: DeviceRecord, state: State, now: datetime) -> None:
    seen = see_start(device.starts, state.start, state.uptime_s)
    device.starts = seen.starts
    if seen.clones is None:
        return
    if device.clone_seen_at is None or now - device.clone_seen_at > SHOWN_FOR:
        details = {"starts": list(seen.clones), "key": None if device.key is None else short_key(device.key)}
        add_event(session, None, "clone", details, actor=CALIBRATOR, now=now, device_id=device.id)
    device.clone_starts, device.clone_seen_at = list(seen.clones), now

"""The flags in `device.troubles`: what may need the attention of a user. To list it, no other devices are read.

Whoever changes a device stores its flags in the same transaction. A kind that ends by time (`TIMED`) keeps its flag
until the device changes again or `clear_ended` runs; a reader compares its time with `SHOWN_FOR`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import IntFlag
from typing import Any, Final

import msgspec
from sqlalchemy import literal_column, select, update
from sqlalchemy.orm import Session

from edgeexit.errors import ConfigError
from edgeexit.wire import State
from edgeexit_calibration.store.tables import DeviceRow

SHOWN_FOR: Final = timedelta(days=1)
"""A trouble that ends by time is reported for this time after it was last noticed."""
SHOWN_AS_KEY: Final = ("key not approved", "revoked")
"""Causes of drops that are no `NOT_STORED`, because the state of the key is shown instead."""


_MAX_CLEARED: Final = 5000


class Trouble(IntFlag):
    """What may need attention; the values are stored in the database, so they never change."""

    CLONE = 1
    KEY_CHANGED = 2
    UNCONFIRMED = 4
    REVERTED = 8
    REJECTED = 16
    NOT_ENROLLED = 32
    PROBLEM = 64
    LOSSES = 128
    NOT_STORED = 256
    SET_ASIDE = 512
    FAR_FROM_COHORT = 1024

    @property
    def kind(self) -> str:
        """The name of one flag for people and JSON, e.g. `key changed`."""
        return str(self.name).lower().replace("_", " ")


def trouble_of(kind: str) -> Trouble:
    """Return the flag with this name for people, e.g. `key changed`. Raises ConfigError for another name."""
    flags = {trouble.kind: trouble for trouble in Trouble}
    if kind not in flags:
        raise ConfigError(f"trouble '{kind}' is unknown; use one of: {', '.join(flags)}")
    return flags[kind]


TIMED: Final = {
    Trouble.LOSSES: DeviceRow.losses_at,
    Trouble.NOT_STORED: DeviceRow.last_drop_at,
}
"""The kinds that end by time, with the column of the time."""


def troubles_of(
    state: State | None,
    *,
    key: str | None,
    offered_key: str | None,
    revoked_at: datetime | None,
    clone_seen_at: datetime | None,
    set_aside_at: datetime | None,
    comparison: Mapping[str, Any] | None,
    losses_at: datetime | None,
    drops: Mapping[str, Any],
    last_drop_at: datetime | None,
    now: datetime,
) -> Trouble:
    """Return the flags of a device from its newest state and the values of its row at the time `now`."""
    found = Trouble(0) if state is None else _of_state(state)
    if revoked_at is None and offered_key is not None:
        if key is not None:
            found |= Trouble.KEY_CHANGED
        elif "key not approved" in drops:
            found |= Trouble.NOT_ENROLLED
    if clone_seen_at is not None:  # what it reports is not counted until a user clears it
        found |= Trouble.CLONE
    if set_aside_at is not None:
        found |= Trouble.SET_ASIDE
    elif comparison is not None:
        found |= Trouble.FAR_FROM_COHORT
    if _is_recent(losses_at, now):
        found |= Trouble.LOSSES
    if _is_recent(last_drop_at, now) and any(cause not in SHOWN_AS_KEY for cause in drops):
        found |= Trouble.NOT_STORED
    return found


def troubles_of_row(row: DeviceRow, state: State | None, *, now: datetime) -> Trouble:
    """Return the flags of a device whose newest state the caller has decoded."""
    return troubles_of(
        state,
        key=row.key,
        offered_key=row.offered_key,
        revoked_at=row.revoked_at,
        clone_seen_at=row.clone_seen_at,
        set_aside_at=row.set_aside_at,
        comparison=row.comparison,
        losses_at=row.losses_at,
        drops=row.drops,
        last_drop_at=row.last_drop_at,
        now=now,
    )


def update_troubles(row: DeviceRow, *, now: datetime) -> None:
    """Store the flags of a device after other columns have changed."""
    state = None if row.state is None else msgspec.json.decode(row.state, type=State)
    row.troubles = int(troubles_of_row(row, state, now=now))


def clear_ended(session: Session, fleet: str, *, now: datetime) -> None:
    """Clear the flags of a fleet that have ended by time, so that the index of troubled devices stays small.

    Devices that another transaction changes now are skipped, and at most `_MAX_CLEARED` are changed per kind.
    """
    for trouble, time in TIMED.items():
        ended = (
            select(DeviceRow.id)
            .where(DeviceRow.fleet == fleet, DeviceRow.troubles != literal_column("0"))
            .where(DeviceRow.troubles.bitwise_and(int(trouble)) != 0, time <= now - SHOWN_FOR)
        )
        ids = session.scalars(ended.limit(_MAX_CLEARED).with_for_update(skip_locked=True)).all()
        session.execute(
            update(DeviceRow)
            .where(DeviceRow.id.in_(ids))
            .values(troubles=DeviceRow.troubles - int(trouble))
            .execution_options(synchronize_session=False)
        )


def _of_state(state: State) -> Trouble:
    found = Trouble(0)
    if state.unconfirmed and state.online:
        found |= Trouble.UNCONFIRMED
    if state.reverted is not None:
        found |= Trouble.REVERTED
    if state.rejected is not None:
        found |= Trouble.REJECTED
    if state.problems:
        found |= Trouble.PROBLEM
    return found


def _is_recent(time: datetime | None, now: datetime) -> bool:
    return time is not None and now - time < SHOWN_FOR

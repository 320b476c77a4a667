"""Read-only views of devices: what each one runs, page by page in the order of their names."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.wire import Losses, Reversion, State
from edgeexit_calibration.ingest.enrolment import short_key
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.tables import DeviceRow, FleetRow
from edgeexit_calibration.store.troubles import Trouble
from edgeexit_calibration.views.device_filter import DeviceFilter
from edgeexit_calibration.views.device_pages import read_page
from edgeexit_calibration.views.names import check_fleet

PAGE: Final = 1000
"""Devices that are read at once."""


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device and what it runs. The fields from `online` to `unconfirmed` are null until it has reported its state."""

    fleet: str
    shard: str
    device: str
    last_seen: datetime
    online: bool | None = None
    start: str | None = None
    uptime_s: float | None = None
    bundle: str | None = None
    cohort: str | None = None
    revision: int | None = None
    policy: str | None = None
    agent: str | None = None
    rejected: str | None = None
    """Reason for which the device rejected the latest policy; null if it did not reject one."""
    reverted: Reversion | None = None
    """The last policy that the device reverted by itself."""
    unconfirmed: bool | None = None
    """True if the device has received no newer heartbeat for a long time."""
    problems: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    """The kinds of `Attention` that the device may need; those that end by time may have ended."""
    audited_samples: int
    """Number of its audited samples; a device with a large share of its cohort's delays bolder policies."""
    losses: Losses
    """Messages that the device has given up."""
    losses_at: datetime | None
    """When these numbers increased last."""
    key: str | None
    """Id of the identity key whose audits are stored; null before the enrolment."""
    offered_key: str | None
    """Id of another key with which the device signs and which waits for an approval."""
    revoked_at: datetime | None
    clone_starts: tuple[str, ...]
    """Two starts that ran at the same time."""
    clone_seen_at: datetime | None
    """When two running agents with this name were noticed last; null if never, or if it is resolved."""
    set_aside_at: datetime | None = None
    """Since when its audits count in no certificate and no alarm; null: they count."""
    set_aside_by: str | None = None
    """Who decided last whether they count: `calibrator` or a user; null: nobody."""
    comparison: dict[str, float] | None = None
    """If its loss is far above that of the others: `audits`, their mean `loss`, and that of the `others`."""
    drops: dict[str, int]
    """Cause -> number of messages that were not stored."""
    last_drop: str | None
    last_drop_at: datetime | None

    @property
    def name(self) -> str:
        """FLEET/SHARD/DEVICE."""
        return f"{self.fleet}/{self.shard}/{self.device}"


class FleetView(msgspec.Struct, frozen=True, kw_only=True):
    """Messages to a fleet that were not stored and came from no known device."""

    fleet: str
    drops: dict[str, int]
    """Cause -> number of messages."""
    last_drop: str
    last_drop_at: datetime


def devices(
    database: Database,
    *,
    fleet: str | None = None,
    where: DeviceFilter | None = None,
    after: str | None = None,
    limit: int = PAGE,
) -> list[DeviceView]:
    """Return at most `limit` devices that have sent a message, sorted by fleet, shard and name.

    Args:
        database: contains the devices.
        fleet: None: all fleets.
        where: further conditions.
        after: FLEET/SHARD/DEVICE of the last device of the page before; None: the first page.
        limit: number of devices in a page.

    Raises NameLookupError for an unknown fleet or an `after` with another form, and DatabaseError.

    """
    with database.reading() as session:
        rows = read_page(session, fleet, where or DeviceFilter(), after, limit)
        if fleet is not None and not rows:
            check_fleet(session, fleet)
        return [device_view(row) for row in rows]


def iterate_devices(
    database: Database, *, fleet: str | None = None, where: DeviceFilter | None = None
) -> Iterator[DeviceView]:
    """Yield every such device, page by page: each page is a consistent state, all of them together are not."""
    after = None
    while page := devices(database, fleet=fleet, where=where, after=after):
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].name


def fleets(database: Database) -> list[FleetView]:
    """Return the fleets in which messages were not stored that came from no known device."""
    with database.reading() as session:
        return fleet_drops(session, None)


def fleet_drops(session: Session, fleet: str | None) -> list[FleetView]:
    """Return what `fleets` returns, of one fleet (None: of all)."""
    query = select(FleetRow).order_by(FleetRow.fleet)
    rows: Sequence[FleetRow] = session.scalars(query if fleet is None else query.filter_by(fleet=fleet)).all()
    return [
        FleetView(fleet=row.fleet, drops=row.drops, last_drop=row.last_drop, last_drop_at=row.last_drop_at)
        for row in rows
    ]


def device_view(row: DeviceRow) -> DeviceView:
    """Return the view of a device."""
    reported: dict[str, Any] = {}
    if row.state is not None:
        state = msgspec.json.decode(row.state, type=State)
        names = ("online", "start", "uptime_s", "bundle", "cohort", "revision", "policy", "agent")
        reported = {name: getattr(state, name) for name in (*names, "reverted", "unconfirmed", "problems")}
        reported["rejected"] = None if state.rejected is None else state.rejected.reason
    return DeviceView(
        fleet=row.fleet,
        shard=row.shard,
        device=row.device,
        last_seen=row.last_seen,
        troubles=tuple(trouble.kind for trouble in Trouble if trouble & row.troubles),
        audited_samples=row.audited_samples,
        losses=msgspec.convert(row.losses, Losses),
        losses_at=row.losses_at,
        key=None if row.key is None else short_key(row.key),
        offered_key=None if row.offered_key is None else short_key(row.offered_key),
        revoked_at=row.revoked_at,
        clone_starts=tuple(row.clone_starts),
        clone_seen_at=row.clone_seen_at,
        set_aside_at=row.set_aside_at,
        set_aside_by=row.set_aside_by,
        comparison=row.comparison,
        drops=row.drops,
        last_drop=row.last_drop,
        last_drop_at=row.last_drop_at,
        **reported,
    )

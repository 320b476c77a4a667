"""Which calibrator processes serve a fleet now, from their leases."""

from collections.abc import Iterator

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.leases import database_time, leader_lease, process_lease, shard_lease
from edgeexit_calibration.store.process_identity import shown_place
from edgeexit_calibration.store.process_tables import LeaseRow
from edgeexit_calibration.store.tables import ShardRow
from edgeexit_calibration.views.attention import Attention

_EVERY_SHARD = "*"
"""Name of the shard in the lease of a process that owns all shards."""


class FleetProcesses(msgspec.Struct, frozen=True, kw_only=True):
    """The processes that serve a fleet, and the shards that nobody stores."""

    processes: tuple[str, ...]
    """Host and process id of each running process."""
    leader: str | None
    """Host and process id of the one that changes policies and publishes; null if there is none."""
    shards: int
    """Number of known shards."""
    unowned_shards: tuple[str, ...]
    """Shards whose messages no process stores now."""
    has_run: bool
    """True if a process has ever served the fleet."""


def fleet_processes(session: Session, fleets: list[str]) -> dict[str, FleetProcesses]:
    """Return the processes of these fleets."""
    now = database_time(session)
    leases = {row.name: row for row in session.scalars(select(LeaseRow))}
    shards: dict[str, list[str]] = {fleet: [] for fleet in fleets}
    for fleet, shard in session.execute(select(ShardRow.fleet, ShardRow.shard).order_by(ShardRow.shard)):
        shards.setdefault(fleet, []).append(shard)
    live = {name: shown_place(row.place) for name, row in leases.items() if row.expires_at > now}
    found = {}
    for fleet in fleets:
        owns_all = shard_lease(fleet, _EVERY_SHARD) in live
        processes = tuple(place for name, place in live.items() if name.startswith(process_lease(fleet, "")))
        leader = live.get(leader_lease(fleet))
        found[fleet] = FleetProcesses(
            processes=processes,
            leader=leader,
            shards=len(shards[fleet]),
            unowned_shards=tuple(s for s in shards[fleet] if not owns_all and shard_lease(fleet, s) not in live),
            has_run=any(name.startswith(f"{fleet} ") for name in leases),
        )
    return found


def process_attention(fleet: str, found: FleetProcesses) -> Iterator[Attention]:
    """Yield what needs attention on the processes of a fleet that has devices or was served before."""
    if not found.processes and found.leader is None:
        yield Attention(
            kind="no calibrator",
            subject=fleet,
            text="no process stores the messages of the devices, changes policies or publishes; the broker and the "
            "devices keep messages for a limited time",
            advice=f"edgeexit calibrator run --fleet {fleet}",
        )
        return
    for shard in found.unowned_shards:
        yield Attention(
            kind="shard not stored",
            subject=f"{fleet}/{shard}",
            text="no process stores the messages of this shard now",
            advice="a running process takes it over within 30 s; otherwise see the logs of the calibrators",
        )

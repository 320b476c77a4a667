"""Decides which shards a process acquires and gives up. Pure functions: no clock, no I/O.

Every process decides for itself from the same table. Each may own an equal part of the shards; if they cannot be equal,
those that own most keep one more. So only a surplus moves, and the number of moves is the lowest possible.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import NamedTuple


class Moves(NamedTuple):
    """What one process changes now."""

    acquire: tuple[str, ...] = ()
    give_up: tuple[str, ...] = ()


def quotas(processes: Collection[str], owners: Mapping[str, str], shards: Collection[str]) -> dict[str, int]:
    """Return the number of shards that each running process may own; their sum is the number of shards.

    Args:
        processes: the running processes.
        owners: shard -> its owner; without shards that nobody owns.
        shards: all shards of the fleet.

    """
    held = dict.fromkeys(processes, 0)
    for shard, owner in owners.items():
        if owner in held and shard in shards:
            held[owner] += 1
    if not held:
        return {}
    equal, more = divmod(len(shards), len(held))
    ranked = sorted(held, key=lambda process: (-held[process], process))
    return {process: equal + (rank < more) for rank, process in enumerate(ranked)}


def plan_moves(me: str, processes: Collection[str], owners: Mapping[str, str], shards: Collection[str]) -> Moves:
    """Return the shards that process `me` acquires and gives up; arguments as in `quotas`."""
    mine = sorted(shard for shard, owner in owners.items() if owner == me)
    known = set(shards)
    unknown = tuple(shard for shard in mine if shard not in known)
    mine = [shard for shard in mine if shard in known]
    quota = quotas({*processes, me}, owners, known)[me]
    if len(mine) > quota:
        return Moves(give_up=(*unknown, *mine[quota:]))
    free = sorted(known.difference(owners), key=lambda shard: _rank(me, shard))
    return Moves(acquire=tuple(free[: quota - len(mine)]), give_up=unknown)


def _rank(process: str, shard: str) -> bytes:
    """Return a key that sorts shards differently for each process, so that they rarely want the same one first."""
    return hashlib.sha256(f"{process} {shard}".encode()).digest()

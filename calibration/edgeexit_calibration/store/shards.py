"""The shards of a fleet, as topics of devices name them."""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from edgeexit_calibration.store.tables import ShardRow

MAX_SHARDS: Final = 4096
"""Maximum number of shards of a fleet: each one is a session at the broker, and a hostile device may invent names."""


def known_shards(session: Session, fleet: str) -> set[str]:
    """Return the shards of a fleet."""
    return set(session.scalars(select(ShardRow.shard).filter_by(fleet=fleet)))


def add_shards(session: Session, fleet: str, shards: Collection[str], *, now: datetime) -> int:
    """Add shards that are not known yet; return how many the fleet has no room for."""
    count = session.scalar(select(func.count()).select_from(ShardRow).filter_by(fleet=fleet)) or 0
    new = sorted(set(shards).difference(known_shards(session, fleet)))
    room = max(0, MAX_SHARDS - count)
    if new[:room]:
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        adding = sqlite.insert(ShardRow) if is_sqlite else postgresql.insert(ShardRow)
        rows = [{"fleet": fleet, "shard": shard, "first_seen": now} for shard in new[:room]]
        session.execute(adding.on_conflict_do_nothing(), rows)
    return len(new) - len(new[:room])

"""Finds the shards of a fleet: the leader receives the retained states of all devices, whose topics name the shard."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

from edgeexit.errors import MessageError
from edgeexit.limited_log import LimitedLog
from edgeexit.wire import parse_up_topic
from edgeexit_calibration.daemon.consumers import shard_of
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.shards import MAX_SHARDS, add_shards, known_shards

_log = logging.getLogger(__name__)

_MAX_WAITING: Final = MAX_SHARDS


class ShardDiscovery:
    """Adds shards to the database. `on_topic` may be called in another thread than `publish`.

    Args:
        database: receives the shards.
        fleet: the fleet.
        on_new: called when a new shard waits to be added.

    """

    def __init__(self, database: Database, *, fleet: str, on_new: Callable[[], None]) -> None:
        self._database = database
        self._fleet = fleet
        self._on_new = on_new
        self._repeats = LimitedLog(_log)
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._new: set[str] = set()

    def on_topic(self, topic: str) -> None:
        """Look at the topic of a state."""
        if shard_of(topic) in self._known:
            return
        try:
            address, _ = parse_up_topic(topic)
        except MessageError:
            return
        if address.fleet != self._fleet:
            return
        with self._lock:
            is_new = address.shard not in self._new and len(self._new) < _MAX_WAITING
            if is_new:
                self._new.add(address.shard)
        if is_new:
            self._on_new()

    def add_new(self, *, now: datetime) -> None:
        """Add the shards that were found. Raises DatabaseError."""
        with self._lock:
            new = set(self._new)
        if not new and self._known:
            return
        with self._database.reading() as session:
            known = known_shards(session, self._fleet)
        missing = new.difference(known)
        left_out = 0
        if missing and len(known) < MAX_SHARDS:
            with self._database.writing() as session:
                left_out = add_shards(session, self._fleet, missing, now=now)
            _log.info("fleet '%s': new shards: %s", self._fleet, ", ".join(sorted(missing)[:10]))
        elif missing:
            left_out = len(missing)
        if left_out:
            self._repeats.warning(
                "many",
                "fleet '%s' has %d shards, which is the maximum; messages of %d further ones, e.g. '%s', are not "
                "received; does a device invent shards?",
                self._fleet,
                MAX_SHARDS,
                left_out,
                max(missing),
            )
        with self._lock:
            self._new -= new
            self._known = known | new  # also those without room, so that their next message costs nothing

"""The open connections: at most so many, and each closed at its deadline."""

import asyncio
import time
from collections import Counter
from typing import Final

from edgeexit.agent.endpoint.open_connection import BODY, CLOSING, HEAD, IDLE, SENDING, OpenConnection

_MIN_AGE_S: Final = 1.0
"""A connection that receives a request or sends a response makes room for others only after this time."""
_CHECKS_PER_TIMEOUT: Final = 4
_MAX_PAUSE_S: Final = 1.0


class Connections:
    """Holds the open connections; only the endpoint's loop uses it.

    If a new connection would exceed the maximum, another one is closed: an idle one, or one whose request has been
    incomplete for at least a second. Among them it is the oldest of the host that has most of them. A connection whose
    request is complete is never closed for another.

    Args:
        max_connections: maximum number of open connections.
        max_unsent_bytes: maximum bytes of the responses that wait to be read by their clients.
        shortest_timeout_s: the shortest timeout of a connection; deadlines are checked several times in it.

    """

    def __init__(self, max_connections: int, *, max_unsent_bytes: int, shortest_timeout_s: float) -> None:
        self._max_connections = max_connections
        self._max_unsent_bytes = max_unsent_bytes
        self._pause_s = min(_MAX_PAUSE_S, shortest_timeout_s / _CHECKS_PER_TIMEOUT)
        self._open: dict[OpenConnection, None] = {}

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._open)

    def add(self, connection: OpenConnection) -> bool:
        """Add a connection. Return False if there is no room, and the connection must be refused."""
        has_room = True
        while has_room and len(self._open) >= self._max_connections:  # refused ones that are still open count, too
            has_room = self.make_room()
        self._open[connection] = None
        return has_room

    def remove(self, connection: OpenConnection) -> None:
        """Forget a closed connection."""
        self._open.pop(connection, None)

    def limit_unsent(self) -> None:
        """Drop the responses that have waited for their clients for longest, while all have too many bytes."""
        sending = sorted((one for one in self._open if one.state == SENDING), key=lambda one: one.since)
        unsent = sum(one.unsent_bytes for one in sending)
        oldest = time.monotonic() - _MIN_AGE_S
        for connection in sending:
            if unsent <= self._max_unsent_bytes or connection.since > oldest:
                return
            unsent -= connection.unsent_bytes
            connection.abort()

    def make_room(self) -> bool:
        """Close a connection that does no work. Return False if all of them work."""
        oldest = time.monotonic() - _MIN_AGE_S
        for states, latest in (((CLOSING, IDLE), float("inf")), ((HEAD, BODY), oldest)):
            candidates = [one for one in self._open if one.state in states and one.since <= latest]
            if candidates:
                counts = Counter(one.peer for one in candidates)
                victim = min(candidates, key=lambda one: (-counts[one.peer], one.since))
                del self._open[victim]
                victim.evict()
                return True
        return False

    def close_all(self) -> None:
        """Close all connections after what has been written to them is sent."""
        for connection in list(self._open):
            connection.close()

    def abort_all(self) -> None:
        """Close all connections at once."""
        for connection in list(self._open):
            connection.abort()

    async def watch(self) -> None:
        """Call `time_out` of each connection whose deadline has passed, until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            now = time.monotonic()
            for connection in [one for one in self._open if one.deadline <= now]:
                connection.time_out()

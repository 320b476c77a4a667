"""A bounded queue of messages on our own topics, between the network thread and the thread that verifies them."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from edgeexit.wire import MAX_BYTES

_MAX_MESSAGES: Final = 4096
_MAX_TOTAL_BYTES: Final = 16 * 1024 * 1024
_MAX_VERIFYING_S: Final = 0.2
"""Maximum time of one call of `waiting`: a hostile broker can send messages faster than they can be verified."""


class UnverifiedMessages:
    """Messages that nobody has verified yet, the oldest first. Thread-safe; one thread calls `waiting`.

    While it is full, further messages are ignored. That harms nobody: whoever can fill it can withhold messages, too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[tuple[str, bytes]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self._messages)

    def put(self, topic: str, payload: bytes) -> None:
        """Add a message, unless it is empty, too large, or the queue is full."""
        size = len(payload)
        with self._lock:
            has_room = len(self._messages) < _MAX_MESSAGES and self._bytes + size <= _MAX_TOTAL_BYTES
            if 0 < size <= MAX_BYTES and has_room:
                self._messages.append((topic, payload))
                self._bytes += size

    def waiting(self) -> Iterator[tuple[str, bytes]]:
        """Yield topic and payload of messages for a limited time; one is removed when the next one is requested.

        So a message stays if the caller fails, e.g. because the database does.
        """
        until_s = time.monotonic() + _MAX_VERIFYING_S
        while self._messages and time.monotonic() < until_s:
            yield self._messages[0]
            with self._lock:
                self._bytes -= len(self._messages.popleft()[1])

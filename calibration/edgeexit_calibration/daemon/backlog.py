"""What a process has received and not stored: its size, which bounds the memory, and how much is stored at once."""

import threading
from collections.abc import Sequence
from typing import Final

from edgeexit.wire import Delivery

_MESSAGE_BYTES: Final = 512
"""What a message needs in memory besides its payload."""
_MAX_BATCH: Final = 4000
_MIN_BATCH: Final = 250
"""Smaller batches do not help: then the commit itself is slow, not the messages."""
_LONG_S: Final = 2.0
_AIM_S: Final = 1.0


class Backlog:
    """Counts messages and their bytes from their arrival until they are stored or given up. Thread-safe.

    The sessions of a process share it. It also counts what arrived over connections that have ended.

    Args:
        max_bytes: beyond it, nothing more is read from the broker.

    Attributes:
        messages: number of messages that are neither stored nor given up.

    """

    def __init__(self, max_bytes: int) -> None:
        self.messages = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def has_room(self) -> bool:
        """Whether more may be received."""
        return self._bytes < self._max_bytes

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Count messages that were received."""
        size = _size(deliveries)
        with self._lock:
            self._bytes += size
            self.messages += len(deliveries)

    def remove(self, deliveries: Sequence[Delivery]) -> None:
        """Count messages no more that were added before."""
        size = _size(deliveries)
        with self._lock:
            self._bytes -= size
            self.messages -= len(deliveries)


class BatchLimit:
    """Maximum number of messages of a batch, so that a slow database does not take one batch for as long as a lease.

    Attributes:
        messages: of the next batch.

    """

    def __init__(self) -> None:
        self.messages = _MAX_BATCH

    def record(self, messages: int, seconds: float) -> None:
        """Record how long a batch took: a long one allows half of its size, a full and short one twice the maximum.

        Batches that were read before still have the size of that time.
        """
        if seconds > _LONG_S:
            self.messages = max(_MIN_BATCH, min(self.messages, messages // 2))
        elif seconds < _AIM_S and messages >= self.messages:
            self.messages = min(_MAX_BATCH, self.messages * 2)


def _size(deliveries: Sequence[Delivery]) -> int:
    return sum([len(one.payload) for one in deliveries]) + _MESSAGE_BYTES * len(deliveries)

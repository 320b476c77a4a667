"""A bounded queue of received messages between the network threads and the thread that stores them.

While it is full, the network thread waits, so the connection exerts back-pressure on the broker. The broker first stops
at the number of unacknowledged messages that the session permits (MQTT 5); the waiting is for brokers that do not.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence

from edgeexit.wire import Delivery


class Inbox:
    """A queue of deliveries, bounded by number and by bytes. Thread-safe.

    Args:
        max_messages: maximum number of deliveries.
        max_bytes: maximum total size of their payloads; a single larger payload is accepted by an empty inbox.

    """

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._deliveries: deque[Delivery] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return the number of deliveries that wait."""
        return len(self._deliveries)

    def put(self, delivery: Delivery) -> None:
        """Add a delivery; wait while the inbox is full. After `close`, discard it."""
        self.put_many((delivery,))

    def put_many(self, deliveries: Sequence[Delivery]) -> None:
        """Add deliveries in their order, at the cost of one; wait while the inbox is full.

        After `close`, discard them.
        """
        with self._changed:
            for delivery in deliveries:
                size = len(delivery.payload)
                while not self._has_room(size) and not self._closed:
                    self._changed.notify_all()
                    self._changed.wait()
                if self._closed:
                    return
                self._deliveries.append(delivery)
                self._bytes += size
            self._changed.notify_all()

    def take(self, limit: int, *, wait_s: float, quiet_s: float) -> list[Delivery]:
        """Return up to `limit` deliveries; none if there is none within `wait_s`.

        The batch ends when it is full, `wait_s` after its first delivery, or when none arrives for `quiet_s`. So
        batches are small while little arrives, and grow with the load.
        """
        batch: list[Delivery] = []
        deadline, pause_s = time.monotonic() + wait_s, wait_s
        with self._changed:
            while len(batch) < limit and not self._closed:
                if not self._deliveries and not self._changed.wait_for(
                    lambda: self._deliveries or self._closed, pause_s
                ):
                    break
                if not batch:
                    deadline = time.monotonic() + wait_s
                while self._deliveries and len(batch) < limit:
                    batch.append(self._deliveries.popleft())
                    self._bytes -= len(batch[-1].payload)
                self._changed.notify_all()
                if (pause_s := min(quiet_s, deadline - time.monotonic())) <= 0:
                    break
        return batch

    def close(self) -> None:
        """Let `put` and `take` return at once from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return not self._deliveries or (
            len(self._deliveries) < self._max_messages and self._bytes + size <= self._max_bytes
        )

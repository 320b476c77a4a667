"""A queue of received messages between the network threads and the thread that reads them.

The sessions bound it: they read nothing more while too much is not acknowledged.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence

from edgeexit.wire import Delivery


class Inbox:
    """A queue of deliveries. Thread-safe."""

    def __init__(self) -> None:
        self._deliveries: deque[Delivery] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return the number of deliveries that wait."""
        return len(self._deliveries)

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Add deliveries in their order. After `close`, discard them."""
        with self._changed:
            if not self._closed:
                self._deliveries.extend(deliveries)
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
                if (pause_s := min(quiet_s, deadline - time.monotonic())) <= 0:
                    break
        return batch

    def close(self) -> None:
        """Let `take` return at once from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

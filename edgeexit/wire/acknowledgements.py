"""Which messages of one connection are not acknowledged yet, and the acknowledgements that wait to be sent."""

import threading
from collections import deque
from collections.abc import Sequence

from edgeexit.wire.packet_codec import encode_pubacks
from edgeexit.wire.session_options import Delivery
from edgeexit.wire.wakeup import Wakeup


class Acknowledgements:
    """The origin of deliveries. Thread-safe. It knows no callback, so a delivery never refers to its receiver.

    Args:
        wakeup: wakes the network thread, which sends what waits.

    Attributes:
        unacked_bytes: bytes of the payloads of the messages that are not acknowledged.

    """

    def __init__(self, wakeup: Wakeup) -> None:
        self.unacked_bytes = 0
        self._wakeup = wakeup
        self._lock = threading.Lock()
        self._unacked: dict[int, int] = {}
        """Packet id -> bytes of the payload."""
        self._packets: deque[bytes] = deque()

    def __len__(self) -> int:
        """Return the number of messages that are not acknowledged."""
        return len(self._unacked)

    def expect(self, deliveries: Sequence[Delivery]) -> None:
        """Record messages of this origin that will be delivered."""
        with self._lock:
            for one in deliveries:
                if one.origin is self:
                    size = len(one.payload)
                    self.unacked_bytes += size - self._unacked.get(one.packet_id, 0)
                    self._unacked[one.packet_id] = size

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages to the broker, in this order; those of another origin are left out."""
        due: list[int] = []
        with self._lock:
            for one in deliveries:
                if one.origin is self and (size := self._unacked.pop(one.packet_id, None)) is not None:
                    self.unacked_bytes -= size
                    due.append(one.packet_id)
        self.send(due)

    def send(self, packet_ids: Sequence[int]) -> None:
        """Acknowledge messages that are not delivered."""
        if packet_ids:
            self._packets.append(encode_pubacks(packet_ids))
            self._wakeup.wake()

    def take(self) -> list[bytes]:
        """Remove and return the packets that wait to be sent."""
        return [self._packets.popleft() for _ in range(len(self._packets))]

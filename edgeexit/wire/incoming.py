"""The messages that arrive on one connection: their delivery, and their acknowledgement to the broker."""

import threading
from collections import deque
from collections.abc import Sequence

from edgeexit.wire.callbacks import SessionCallbacks
from edgeexit.wire.packet_codec import Publish, encode_pubacks
from edgeexit.wire.session_options import Delivery, SessionOptions
from edgeexit.wire.wakeup import Wakeup


class Incoming:
    """Delivers messages to the session's callback, and acknowledges those that the receiver has processed.

    `acknowledge` is thread-safe; the rest runs in the network thread.

    Args:
        callbacks: of the session.
        options: of the session.
        wakeup: wakes the network thread.

    """

    def __init__(self, callbacks: SessionCallbacks, options: SessionOptions, wakeup: Wakeup) -> None:
        self._callbacks = callbacks
        self._options = options
        # paho acknowledges the other messages by itself.
        self._acknowledges = options.manual_ack or callbacks.takes_batches
        self._wakeup = wakeup
        self._batch: list[Delivery] = []
        self._lock = threading.Lock()
        self._unacked: dict[int, int] = {}
        """Packet id -> bytes of the payload, of the delivered messages that are not acknowledged."""
        self._unacked_bytes = 0
        self._acks: deque[bytes] = deque()

    def is_full(self) -> bool:
        """Return True if a session that takes batches has delivered more than may be unacknowledged."""
        messages, size = self._options.receive_maximum, self._options.max_unacked_bytes
        return self._callbacks.takes_batches and (
            (messages is not None and len(self._unacked) > messages)
            or (size is not None and self._unacked_bytes > size)
        )

    def receive(self, messages: Sequence[Publish]) -> None:
        """Take messages; they are delivered now, or by `deliver` if the session takes batches."""
        deliveries: list[Delivery] = []
        ignored: list[int] = []
        for topic, payload, packet_id, qos, retain, dup, is_cut in messages:
            try:
                name = topic.decode()
            except UnicodeDecodeError:
                self._callbacks.repeats.warning("topic", "a message was ignored: its topic is not UTF-8")
                ignored.append(packet_id)
                continue
            if is_cut:
                text = "'%s': the content of a message was skipped: it is too large"
                self._callbacks.repeats.warning(("oversized", name), text, name)
            origin = self if qos and self._acknowledges else None
            deliveries.append(
                Delivery(
                    topic=name, payload=payload, retain=retain, qos=qos, dup=dup, packet_id=packet_id, origin=origin
                )
            )
        self._record(deliveries)
        if ignored and self._acknowledges:
            self._send_pubacks([one for one in ignored if one])
        if self._callbacks.takes_batches:
            self._batch += deliveries
        else:
            for delivery in deliveries:
                self._callbacks.message(delivery)

    def deliver(self) -> None:
        """Deliver the batch of messages that have arrived since the last call."""
        if self._batch:
            batch, self._batch = self._batch, []
            self._callbacks.messages(batch)
            if not self._options.manual_ack:
                self.acknowledge(batch)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages to the broker, in this order; those of another connection are left out."""
        due: list[int] = []
        with self._lock:
            for one in deliveries:
                if one.origin is self and (size := self._unacked.pop(one.packet_id, None)) is not None:
                    self._unacked_bytes -= size
                    due.append(one.packet_id)
        self._send_pubacks(due)

    def take_acks(self) -> list[bytes]:
        """Remove and return the packets that acknowledge messages."""
        return [self._acks.popleft() for _ in range(len(self._acks))]

    def _record(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            for one in deliveries:
                if one.origin is not None:
                    size = len(one.payload)
                    self._unacked_bytes += size - self._unacked.get(one.packet_id, 0)
                    self._unacked[one.packet_id] = size

    def _send_pubacks(self, packet_ids: Sequence[int]) -> None:
        if packet_ids:
            self._acks.append(encode_pubacks(packet_ids))
            self._wakeup.wake()

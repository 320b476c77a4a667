"""The messages that arrive on one connection: their delivery, and their acknowledgement to the broker."""

import threading
from collections import deque
from collections.abc import Iterable, Sequence

from edgeexit.wire.callbacks import SessionCallbacks
from edgeexit.wire.mqtt_client import MqttClient
from edgeexit.wire.packet_codec import encode_pubacks
from edgeexit.wire.session_options import Delivery, SessionOptions
from edgeexit.wire.wakeup import Wakeup


class Incoming:
    """Delivers messages to the session's callback, and acknowledges those that the receiver has processed.

    `acknowledge` is thread-safe; the rest runs in the network thread.

    Args:
        client: sends the acknowledgements.
        callbacks: of the session.
        options: of the session.
        wakeup: wakes the network thread.

    """

    def __init__(
        self, client: MqttClient, callbacks: SessionCallbacks, options: SessionOptions, wakeup: Wakeup
    ) -> None:
        self._client = client
        self._callbacks = callbacks
        self._manual_ack = options.manual_ack
        self._wakeup = wakeup
        self._batch: list[Delivery] = []
        self._lock = threading.Lock()
        self._unacked: set[int] = set()
        """Packet ids of the delivered messages that are not acknowledged."""
        self._acks: deque[bytes] = deque()

    def receive(
        self, topic: bytes, payload: bytes, packet_id: int, *, qos: int, retain: bool, dup: bool, is_oversized: bool
    ) -> None:
        """Take a message; it is delivered now, or by `deliver` if the session takes batches."""
        origin = self if self._manual_ack and qos else None
        if origin is not None:
            with self._lock:
                self._unacked.add(packet_id)
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            self._callbacks.repeats.warning("topic", "a message was ignored: its topic is not UTF-8")
            self._acknowledge_ids([packet_id] if origin is not None else [])
            return
        if is_oversized:
            payload = b""
            self._callbacks.repeats.warning(
                ("oversized", name), "'%s': the content of a message was skipped: it is too large", name
            )
        delivery = Delivery(
            topic=name, payload=payload, retain=retain, qos=qos, dup=dup, packet_id=packet_id, origin=origin
        )
        if self._callbacks.takes_batches:
            self._batch.append(delivery)
        else:
            self._callbacks.message(delivery)

    def deliver(self) -> None:
        """Deliver the batch of messages that have arrived since the last call."""
        if self._batch:
            batch, self._batch = self._batch, []
            self._callbacks.messages(batch)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages to the broker, in this order; those of another connection are left out."""
        self._acknowledge_ids([one.packet_id for one in deliveries if one.origin is self])

    def write_acks(self) -> None:
        """Hand the acknowledgements to the client, as one buffer."""
        if self._acks:
            waiting = [self._acks.popleft() for _ in range(len(self._acks))]
            self._client.send_raw(b"".join(waiting))

    def _acknowledge_ids(self, packet_ids: Iterable[int]) -> None:
        with self._lock:
            due = [one for one in packet_ids if one in self._unacked]
            self._unacked.difference_update(due)
        if due:
            self._acks.append(encode_pubacks(due))
            self._wakeup.wake()

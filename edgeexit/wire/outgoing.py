"""The messages that were published on one connection: queued, in flight, and how each ended."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeexit.errors import MessageError
from edgeexit.wire.broker_limits import BrokerLimits, packet_size
from edgeexit.wire.callbacks import SessionCallbacks
from edgeexit.wire.mqtt_client import MqttClient
from edgeexit.wire.packet_codec import encode_publish
from edgeexit.wire.publication import PacketTooLargeError, Publication

_BATCH: Final = 64
"""Maximum number of messages that are written before the event loop reads again."""
_MAX_UNACKED_BYTES: Final = 32 * 1024 * 1024
"""A broker that is connected and takes nothing must not fill the memory."""
_MAX_TOPIC_BYTES: Final = 65535


class _Message(NamedTuple):
    publication: Publication
    payload: bytes
    retain: bool
    expiry_s: int | None


class Outgoing:
    """Gives paho one message at a time, so that nothing but the end of the present message waits in its queue.

    `publish`, `unfinished` and `unacked_bytes` are thread-safe; the rest runs in the network thread.
    """

    def __init__(self, client: MqttClient, callbacks: SessionCallbacks) -> None:
        self._client = client
        self._callbacks = callbacks
        self._lock = threading.Lock()
        self._open = False
        self._limits = BrokerLimits()
        self._waiting: deque[_Message] = deque()
        self._writing: Publication | None = None
        self._in_flight: dict[int, Publication] = {}
        self._unacked_bytes = 0
        self._unconfirmed: deque[bytes] = deque()
        self._unconfirmed_bytes = 0

    @property
    def unacked_bytes(self) -> int:
        """Bytes of the packets that are neither acknowledged nor refused."""
        return self._unacked_bytes

    @property
    def limits(self) -> BrokerLimits:
        """What the broker accepts."""
        return self._limits

    def open(self, limits: BrokerLimits) -> None:
        """Accept messages from now on, within the limits of the broker."""
        with self._lock:
            self._limits = limits
            self._open = True

    def publish(self, topic: str, payload: bytes, *, retain: bool, expiry_s: int | None) -> Publication | None:
        """Queue a message; return None if the connection is not open, or if too much waits already."""
        _check_topic(topic)
        publication = Publication(topic, packet_size(topic, payload))
        with self._lock:
            if not self._open:
                return None
            limit = self._limits.max_payload(topic)
            if limit is not None and len(payload) > limit:
                raise PacketTooLargeError(topic, size=len(payload), limit=limit)
            if self._unacked_bytes + publication.size > _MAX_UNACKED_BYTES and self._unacked_bytes:
                return None
            self._waiting.append(_Message(publication, payload, retain, expiry_s))
            self._unacked_bytes += publication.size
        return publication

    def publish_unconfirmed(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Queue messages with QoS 0 as one buffer; return False if the connection is not open or too much waits."""
        packets = []
        for topic, payload in messages:
            _check_topic(topic)
            limit = self._limits.max_payload(topic)
            if limit is not None and len(payload) > limit:
                error = PacketTooLargeError(topic, size=len(payload), limit=limit)
                self._callbacks.repeats.warning(("unconfirmed", topic), "not sent: %s", error)
                continue
            packets.append(encode_publish(topic, payload, version5=self._client.version5))
        buffer = b"".join(packets)
        with self._lock:
            if not self._open or self._unconfirmed_bytes + len(buffer) > _MAX_UNACKED_BYTES:
                return False
            self._unconfirmed.append(buffer)
            self._unconfirmed_bytes += len(buffer)
        return True

    def unfinished(self) -> list[Publication]:
        """Return the publications that are neither acknowledged nor refused."""
        with self._lock:
            return [*self._in_flight.values(), *(one.publication for one in self._waiting)]

    def hand_over(self) -> None:
        """Write as many messages as the broker and the socket take, up to a batch."""
        for _ in range(_BATCH):
            if self._client.want_write():
                return
            if self._writing is not None:
                self._writing.written = True
                self._writing = None
            if not self._waiting or len(self._in_flight) >= self._limits.receive_maximum or not self._send_next():
                return

    def take_unconfirmed(self) -> list[bytes]:
        """Remove and return the packets of all messages with QoS 0."""
        with self._lock:
            packets = list(self._unconfirmed)
            self._unconfirmed.clear()
            self._unconfirmed_bytes = 0
        return packets

    @property
    def can_hand_over(self) -> bool:
        """True if the next message can be written at once."""
        has_room = len(self._in_flight) < self._limits.receive_maximum
        return has_room and bool(self._waiting) and not self._client.want_write()

    def acknowledge(self, mid: int, code: Any) -> None:
        """Record a PUBACK; `code` is paho's reason code."""
        with self._lock:
            publication = self._in_flight.pop(mid, None)
            if publication is None:
                return
            self._unacked_bytes -= publication.size
        refused = str(code) if code.is_failure else None
        publication.acknowledge(refused)
        if refused is not None:
            topic = publication.topic
            self._callbacks.refused(topic, refused)
        self._callbacks.progress()

    def end(self) -> None:
        """End all publications; nothing more is accepted."""
        with self._lock:
            self._open = False
            unfinished = [*self._in_flight.values(), *(one.publication for one in self._waiting)]
            self._in_flight.clear()
            self._waiting.clear()
            self._unconfirmed.clear()
            self._writing = None
            self._unacked_bytes = 0
        for publication in unfinished:
            publication.end()
        self._callbacks.progress()

    def _send_next(self) -> bool:
        message = self._waiting[0]
        properties = None
        if message.expiry_s is not None and self._client.version5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = message.expiry_s
        info = self._client.publish(
            message.publication.topic,
            message.payload,
            qos=min(1, self._limits.max_qos),
            retain=message.retain and self._limits.retain,
            properties=properties,
        )
        if info.rc != paho.MQTT_ERR_SUCCESS:  # lost, or this packet id is in use and the next one is free
            return False
        with self._lock:
            self._waiting.popleft()
            self._in_flight[info.mid] = self._writing = message.publication
        self._client.loop_write()
        return True


def _check_topic(topic: str) -> None:
    """Raise MessageError if a message cannot be published on this topic."""
    if not topic or "+" in topic or "#" in topic or len(topic.encode()) > _MAX_TOPIC_BYTES:
        raise MessageError(f"'{topic[:300]}' is not a topic to publish on")

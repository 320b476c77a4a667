"""What the broker accepts on a connection, from the properties of its CONNACK (MQTT 5, section 3.2.2.3)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

MAX_RECEIVE: Final = 65535
"""Maximum number of unacknowledged messages if the broker names no other."""
_OVERHEAD: Final = 16
"""Bytes of a PUBLISH packet apart from topic and payload, at most: fixed header 5, length of the topic 2, packet id 2,
properties with a message expiry 7 (the length of the properties 2, the interval 5)."""


class BrokerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker accepts. The defaults are those of the protocol; MQTT 3.1.1 has no others."""

    max_packet: int | None = None
    """Maximum bytes of a packet; None: no limit is known."""
    receive_maximum: int = MAX_RECEIVE
    """Maximum number of messages with QoS 1 that are sent and not acknowledged."""
    max_qos: int = 2
    retain: bool = True
    """False: the broker accepts no retained messages."""

    @classmethod
    def from_connack(cls, properties: Any) -> BrokerLimits:
        """Return the limits in the properties of a CONNACK, an object of paho; absent ones have their defaults."""
        return cls(
            max_packet=getattr(properties, "MaximumPacketSize", None) or None,
            receive_maximum=getattr(properties, "ReceiveMaximum", None) or MAX_RECEIVE,
            max_qos=getattr(properties, "MaximumQoS", 2),
            retain=bool(getattr(properties, "RetainAvailable", 1)),
        )

    def max_payload(self, topic: str) -> int | None:
        """Return the maximum bytes of a payload on this topic; None if no limit is known."""
        return None if self.max_packet is None else max(0, self.max_packet - packet_size(topic, b""))

    @property
    def problem(self) -> str | None:
        """What the broker does not support although the fleet protocol needs it."""
        if self.max_qos == 0:
            return "the broker supports only QoS 0, and messages can get lost; enable QoS 1"
        if not self.retain:
            return "the broker supports no retained messages: an offline device misses its policy; enable them"
        return None


def packet_size(topic: str, payload: bytes) -> int:
    """Return the bytes of a PUBLISH packet, rounded up by a few bytes."""
    return len(topic.encode()) + len(payload) + _OVERHEAD

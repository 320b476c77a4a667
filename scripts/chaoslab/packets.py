"""Reads MQTT packets from a stream of bytes, to count the messages that cross a connection."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

CONNECT: Final = 1
PUBLISH: Final = 3
PUBACK: Final = 4
_MQTT_5: Final = 5


class Packet(NamedTuple):
    """A complete packet."""

    kind: int
    flags: int
    body: bytes
    size: int
    """Bytes on the wire."""


class PacketStream:
    """Splits a stream of bytes into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that are complete now."""
        self._buffer += data
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> Packet | None:
        length = shift = 0
        for position in range(1, min(len(self._buffer), 5)):
            byte = self._buffer[position]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                end = position + 1 + length
                if len(self._buffer) < end:
                    return None
                head, body = self._buffer[0], bytes(self._buffer[position + 1 : end])
                del self._buffer[:end]
                return Packet(head >> 4, head & 0x0F, body, end)
        return None


class PublishedMessage(NamedTuple):
    """A PUBLISH packet of QoS 1."""

    topic: str
    packet_id: int
    payload: bytes


def parse_publish(packet: Packet, *, version: int) -> PublishedMessage:
    """Return the topic, the packet id and the payload of a PUBLISH packet of QoS 1 or 2."""
    end = 2 + int.from_bytes(packet.body[:2], "big")
    topic = packet.body[2:end].decode()
    packet_id = int.from_bytes(packet.body[end : end + 2], "big")
    end += 2
    if version == _MQTT_5:
        length = shift = 0
        while True:
            byte = packet.body[end]
            length |= (byte & 0x7F) << shift
            shift, end = shift + 7, end + 1
            if not byte & 0x80:
                break
        end += length
    return PublishedMessage(topic, packet_id, packet.body[end:])


def parse_version(packet: Packet) -> int:
    """Return the protocol level of a CONNECT packet."""
    return packet.body[2 + int.from_bytes(packet.body[:2], "big")]


class _Numbered(msgspec.Struct):
    """The fields that identify a report or an audit."""

    start: str = ""
    sequence: int = 0


class _Signed(msgspec.Struct):
    audit: _Numbered


def message_key(message: PublishedMessage) -> tuple[str, int] | None:
    """Return (start, sequence) of a report or an audit, or None for any other message."""
    if message.topic.endswith("/up/report"):
        found = msgspec.json.decode(message.payload, type=_Numbered)
    elif message.topic.endswith("/up/audit"):
        found = msgspec.json.decode(message.payload, type=_Signed).audit
    else:
        return None
    return found.start, found.sequence

"""Splits and encodes MQTT packets in bulk: MQTT 5 and 3.1.1, as far as reports and their acknowledgements need it.

Everything rare (CONNECT with its properties, SUBACK, PINGRESP, DISCONNECT) is the business of paho. Section numbers are
those of the MQTT 5 specification.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
SUBACK: Final = 9
"""Types of packets: the upper four bits of the first byte (section 2.1.2)."""
PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"
"""Encoded packets, the same in both versions."""
KEPT_BYTES: Final = 128 * 1024
"""What is kept of a packet that is skipped: its topic, its packet identifier and the properties."""
_MAX_LENGTH: Final = 268_435_455
_MAX_LENGTH_BYTES: Final = 4
_MAX_STRING: Final = 65_535
_MORE: Final = 0x80
_PUBACK_HEADER: Final = 0x4002 << 16
"""Fixed header of a PUBACK without a reason code, before its packet identifier: the same in both versions."""


class PacketError(ValueError):
    """A malformed packet, or one that is larger than any that the receiver needs."""


class Packet(NamedTuple):
    """A packet as it was received."""

    first: int
    """The first byte: type and flags."""
    body: bytes
    """What follows the fixed header."""
    is_cut: bool = False
    """True: the packet is larger than the maximum, and `body` is only its start."""

    @property
    def kind(self) -> int:
        """The type of the packet, e.g. `PUBLISH`."""
        return self.first >> 4


class Publish(NamedTuple):
    """A received message."""

    topic: bytes
    payload: bytes
    packet_id: int = 0
    qos: int = 0
    retain: bool = False
    dup: bool = False
    is_cut: bool = False
    """True: the message is larger than the maximum, and its payload was skipped."""


class PacketStream:
    """Splits a stream of bytes into packets, however the bytes are divided.

    Args:
        max_bytes: of a larger PUBLISH only the start is kept; any other larger packet is an error.

    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        """The start of a packet whose end has not arrived."""
        self._needed = 0
        """Bytes of `rest` from which on it is worth to look at it again."""
        self._cut_first = 0
        self._to_skip = 0
        """Bytes of a packet that is too large which have not arrived; `rest` then has the start of its body."""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that are complete with these bytes. Raises PacketError; nothing more can be read then."""
        if self._rest and not self._to_skip:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        packet, start = self._next(data, 0)
        while packet is not None:
            yield packet
            packet, start = self._next(data, start)

    def _next(self, data: bytes, start: int) -> tuple[Packet | None, int]:
        """Return the packet at this position and the position after it; if it is not complete, keep what is there."""
        if not self._to_skip:
            length, body = decode_length(data, start + 1)
            stop = body + length
            if not body or (stop > len(data) and length <= self._max_bytes):
                self._needed = stop - start if body else len(data) - start + 1
                self._rest += data[start:]
                return None, start
            first = data[start]
            if length <= self._max_bytes:
                return Packet(first, data[body:stop]), stop
            if first >> 4 != PUBLISH:
                raise PacketError(f"a packet of {length} bytes, which is larger than any that this client can need")
            self._cut_first, self._to_skip, start = first, length, body
        start = self._skip(data, start)
        if self._to_skip:
            return None, start
        packet = Packet(self._cut_first, bytes(self._rest), is_cut=True)
        self._rest.clear()
        return packet, start

    def _skip(self, data: bytes, start: int) -> int:
        """Keep the start of the body, count the others; return the position after it."""
        stop = min(len(data), start + self._to_skip)
        self._to_skip -= stop - start
        self._rest += data[start : min(stop, start + KEPT_BYTES - len(self._rest))]
        return stop


def decode_length(data: bytes, start: int) -> tuple[int, int]:
    """Return a Variable Byte Integer (section 1.5.5) and the position after it, or (0, 0) if its end is missing.

    Raises PacketError if it has more than four bytes.
    """
    end = len(data)
    if start < end and data[start] < _MORE:
        return data[start], start + 1
    length = shift = 0
    for position in range(start, start + _MAX_LENGTH_BYTES):
        if position >= end:
            return 0, 0
        byte = data[position]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < _MORE:
            return length, position + 1
    raise PacketError("a length has more than four bytes")


def parse_publish(packet: Packet, *, version5: bool) -> Publish:
    """Return the message in a PUBLISH packet (section 3.3). Its properties are skipped. Raises PacketError."""
    first, body, is_cut = packet
    qos = first >> 1 & 3
    position = 2 + (body[0] << 8 | body[1]) if len(body) > 1 else len(body) + 1
    topic = body[2:position]
    packet_id = 0
    if qos:
        packet_id = int.from_bytes(body[position : position + 2], "big")
        position += 2
        if qos > 2 or not packet_id:  # noqa: PLR2004
            raise PacketError(f"a PUBLISH packet with QoS {qos} and packet identifier {packet_id}")
    if version5:
        length, position = decode_length(body, position)
        position = position + length if position else len(body) + 1
    elif not topic:
        raise PacketError("a PUBLISH packet without a topic")
    if position > len(body):
        raise PacketError("a PUBLISH packet is shorter than its fields")
    payload = b"" if is_cut else body[position:]
    return Publish(topic, payload, packet_id, qos, first & 1 == 1, first & 8 == 8, is_cut)  # noqa: PLR2004


def parse_acknowledgement(packet: Packet) -> tuple[int, int]:
    """Return packet identifier and reason code of a PUBACK, or of a SUBACK or CONNACK with one code; 0 is success.

    A CONNACK has no packet identifier; it is 0 then. Raises PacketError.
    """
    body = packet.body
    if len(body) < 2:  # noqa: PLR2004
        raise PacketError(f"an acknowledgement of {len(body)} bytes")
    if packet.kind == CONNACK:
        return 0, body[1]
    packet_id = body[0] << 8 | body[1]
    if packet.kind == PUBACK:
        return packet_id, body[2] if len(body) > 2 else 0  # noqa: PLR2004
    return packet_id, body[-1]


def encode_length(number: int) -> bytes:
    """Return a Variable Byte Integer. Raises ValueError above 268,435,455."""
    if number < _MORE:
        return bytes((number,))
    if number > _MAX_LENGTH:
        raise ValueError(f"{number} is larger than {_MAX_LENGTH}, the maximum length in MQTT")
    encoded = bytearray()
    while number:
        number, digit = number >> 7, number & 0x7F
        encoded.append(digit | _MORE if number else digit)
    return bytes(encoded)


def encode_string(text: str) -> bytes:
    """Return a UTF-8 string with its length. Raises ValueError above 65,535 bytes."""
    data = text.encode()
    if len(data) > _MAX_STRING:
        raise ValueError(f"a string of {len(data)} bytes is longer than MQTT permits; it starts with '{text[:80]}'")
    return len(data).to_bytes(2, "big") + data


def encode_publish(
    topic: str, payload: bytes, *, version5: bool, packet_id: int = 0, retain: bool = False, dup: bool = False
) -> bytes:
    """Return a PUBLISH without properties: QoS 1 with a packet identifier, QoS 0 without."""
    variable = encode_string(topic)
    if packet_id:
        variable += packet_id.to_bytes(2, "big")
    if version5:
        variable += b"\0"
    first = PUBLISH << 4 | dup << 3 | (packet_id > 0) << 1 | retain
    return b"".join((bytes((first,)), encode_length(len(variable) + len(payload)), variable, payload))


def encode_pubacks(packet_ids: Iterable[int]) -> bytes:
    """Return one PUBACK without a reason code for each packet identifier, in this order."""
    packets = [_PUBACK_HEADER | one for one in packet_ids]
    return struct.pack(f">{len(packets)}I", *packets)


def encode_connect(client_id: str, *, version5: bool, keepalive_s: int = 60, expiry_s: int = 0) -> bytes:
    """Return a CONNECT without a will and without credentials; a session with an expiry is continued.

    With 3.1.1 a session that does not end with the connection has no expiry.
    """
    flags = 0 if expiry_s else 2
    properties = b"\x05\x11" + expiry_s.to_bytes(4, "big") if version5 else b""
    level = 5 if version5 else 4
    body = encode_string("MQTT") + bytes((level, flags)) + keepalive_s.to_bytes(2, "big") + properties
    body += encode_string(client_id)
    return b"\x10" + encode_length(len(body)) + body


def encode_subscribe(topic_filter: str, *, version5: bool, packet_id: int, qos: int = 1) -> bytes:
    """Return a SUBSCRIBE to one topic filter."""
    body = packet_id.to_bytes(2, "big") + (b"\0" if version5 else b"") + encode_string(topic_filter) + bytes((qos,))
    return b"\x82" + encode_length(len(body)) + body

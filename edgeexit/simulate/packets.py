"""MQTT packets that only simulated devices send or read: a CONNECT with will and credentials, and its answer."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from edgeexit.wire.packet_codec import Packet, PacketError, decode_length, encode_length, encode_string

MqttVersion = Literal["3.1.1", "5"]

DEFAULT_WINDOW: Final = 65_535
"""Messages without a PUBACK that a broker takes if it names no limit."""

_CONNECT: Final = 0x10
_SUBSCRIBE: Final = 0x82
_CLEAN: Final = 0x02
_WILL_QOS_1_RETAINED: Final = 0x2C
_PASSWORD: Final = 0x40
_USERNAME: Final = 0x80
_RECEIVE_MAXIMUM: Final = 0x21
_PROPERTY_SIZES: Final = {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
"""Properties of a CONNACK with a fixed size."""
_STRING_PROPERTIES: Final = {0x12: 1, 0x15: 1, 0x16: 1, 0x1A: 1, 0x1C: 1, 0x1F: 1, 0x26: 2}
"""Properties of a CONNACK that are strings -> number of strings."""


class Connack(NamedTuple):
    """The answer to CONNECT."""

    code: int
    """0, or why the broker refuses the connection."""
    window: int
    """Messages without a PUBACK that the broker takes."""


def encode_connect(
    client_id: str,
    *,
    version5: bool,
    keep_alive_s: int,
    username: str | None = None,
    password: str | None = None,
    will: tuple[str, bytes] | None = None,
) -> bytes:
    """Return a CONNECT with a clean start; `will` is topic and payload of a retained message."""
    properties = b"\0" if version5 else b""
    flags = _CLEAN
    payload = encode_string(client_id)
    if will is not None:
        flags |= _WILL_QOS_1_RETAINED
        payload += properties + encode_string(will[0]) + len(will[1]).to_bytes(2, "big") + will[1]
    if username is not None:
        flags |= _USERNAME
        payload += encode_string(username)
    if password is not None:
        flags |= _PASSWORD
        payload += encode_string(password)
    head = encode_string("MQTT") + bytes((5 if version5 else 4, flags)) + keep_alive_s.to_bytes(2, "big") + properties
    return bytes((_CONNECT,)) + encode_length(len(head) + len(payload)) + head + payload


def encode_subscriptions(filters: Sequence[str], *, version5: bool, packet_id: int) -> bytes:
    """Return a SUBSCRIBE to several topic filters with QoS 1."""
    body = packet_id.to_bytes(2, "big") + (b"\0" if version5 else b"")
    body += b"".join(encode_string(one) + b"\1" for one in filters)
    return bytes((_SUBSCRIBE,)) + encode_length(len(body)) + body


def parse_connack(packet: Packet, *, version5: bool) -> Connack:
    """Return the content of a CONNACK. Raises PacketError."""
    body = packet.body
    if len(body) < 2:  # noqa: PLR2004 - flags and code
        raise PacketError("the broker sent a CONNACK that is too short")
    window = _receive_maximum(body) if version5 and len(body) > 2 else DEFAULT_WINDOW  # noqa: PLR2004 - properties follow
    return Connack(body[1], window)


def _receive_maximum(body: bytes) -> int:
    """Return the receive maximum among the properties of a CONNACK."""
    length, place = decode_length(body, 2)
    end = place + length
    while place < end:
        name, place = body[place], place + 1
        if name == _RECEIVE_MAXIMUM:
            return int.from_bytes(body[place : place + 2], "big")
        if name in _PROPERTY_SIZES:
            place += _PROPERTY_SIZES[name]
        elif name in _STRING_PROPERTIES:
            for _ in range(_STRING_PROPERTIES[name]):
                place += 2 + int.from_bytes(body[place : place + 2], "big")
        else:
            raise PacketError(f"the broker sent a CONNACK with the unknown property 0x{name:02x}")
    return DEFAULT_WINDOW

"""Reads from MQTT packets what the proxy counts."""

from typing import Final

import msgspec

from edgeexit.wire.packet_codec import Packet, Publish, encode_length

CONNECT: Final = 1
"""Type of the first packet of a client."""


def packet_size(packet: Packet) -> int:
    """Return the bytes of a packet on the wire."""
    length = len(packet.body)
    return 1 + len(encode_length(length)) + length


def parse_version(packet: Packet) -> int:
    """Return the protocol level of a CONNECT packet."""
    return packet.body[2 + int.from_bytes(packet.body[:2], "big")]


class _Numbered(msgspec.Struct):
    """The fields that identify a report or an audit."""

    start: str = ""
    sequence: int = 0


class _Signed(msgspec.Struct):
    audit: _Numbered


def message_key(message: Publish) -> tuple[str, int] | None:
    """Return (start, sequence) of a report or an audit, or None for any other message."""
    if message.topic.endswith(b"/up/report"):
        found = msgspec.json.decode(message.payload, type=_Numbered)
    elif message.topic.endswith(b"/up/audit"):
        found = msgspec.json.decode(message.payload, type=_Signed).audit
    else:
        return None
    return found.start, found.sequence

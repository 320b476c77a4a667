"""Encodes MQTT packets in bulk: MQTT 5 without properties, and 3.1.1."""

import struct
from collections.abc import Iterable
from typing import Final

_PUBLISH: Final = 0x30
_PUBACK: Final = 0x4002 << 16
"""Fixed header of a PUBACK without a reason code, before its packet id: the same in both versions."""
_MAX_REMAINING: Final = 268_435_455


def encode_length(number: int) -> bytes:
    """Return a Variable Byte Integer. Raises ValueError above 268,435,455."""
    if number < 0x80:  # noqa: PLR2004 - 7 bits
        return bytes((number,))
    if number > _MAX_REMAINING:
        raise ValueError(f"{number} is larger than {_MAX_REMAINING}, the maximum length in MQTT")
    encoded = bytearray()
    while number:
        number, digit = number >> 7, number & 0x7F
        encoded.append(digit | 0x80 if number else digit)
    return bytes(encoded)


def encode_string(text: str) -> bytes:
    """Return a UTF-8 string with its length. Raises ValueError above 65,535 bytes."""
    data = text.encode()
    if len(data) > 0xFFFF:  # noqa: PLR2004 - 16 bits
        raise ValueError(f"a string of {len(data)} bytes is longer than MQTT permits; it starts with '{text[:80]}'")
    return len(data).to_bytes(2, "big") + data


def encode_publish(topic: str, payload: bytes, *, version5: bool, packet_id: int = 0, retain: bool = False) -> bytes:
    """Return a PUBLISH without properties: QoS 1 with a packet id, QoS 0 without."""
    name = encode_string(topic)
    variable = name + packet_id.to_bytes(2, "big") if packet_id else name
    if version5:
        variable += b"\0"
    first = _PUBLISH | (2 if packet_id else 0) | retain
    return b"".join((bytes((first,)), encode_length(len(variable) + len(payload)), variable, payload))


def encode_pubacks(packet_ids: Iterable[int]) -> bytes:
    """Return one PUBACK without a reason code for each packet id, in this order."""
    packets = [_PUBACK | one for one in packet_ids]
    return struct.pack(f">{len(packets)}I", *packets)

"""Taking outputs out of an ONNX file, and the nodes that only they need, where the package onnx is not there.

ONNX files are protocol buffers (https://protobuf.dev/programming-guides/encoding). Field numbers are those of
onnx.proto, which never change: ModelProto graph = 7; GraphProto node = 1, output = 12; NodeProto input = 1, output = 2,
attribute = 5; AttributeProto g = 6, graphs = 11; ValueInfoProto name = 1.
"""

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5


class _Field(NamedTuple):
    number: int
    kind: int
    content: bytes
    """Of a message or string."""
    whole: bytes
    """The field with its tag, as it stands in the file."""


def without_outputs(model: bytes, names: Collection[str]) -> bytes:
    """Return a model without the named graph outputs and without the nodes whose results nobody reads then.

    Raises ValueError for what is no ONNX model.
    """
    return b"".join(
        _message(7, _pruned(field.content, names)) if (field.number, field.kind) == (7, _BYTES) else field.whole
        for field in _fields(model)
    )


def _pruned(graph: bytes, dropped: Collection[str]) -> bytes:
    fields = list(_fields(graph))
    kept = [field for field in fields if not (field.number == 12 and _name(field.content) in dropped)]  # noqa: PLR2004
    needed = {_name(field.content) for field in kept if field.number == 12}  # noqa: PLR2004
    live: list[_Field] = []
    for field in reversed(kept):  # nodes stand in topological order, so each comes before those that it reads
        if field.number == 1:
            reads, makes = _ends(field.content)
            if not needed & makes:
                continue
            needed |= reads
        live.append(field)
    return b"".join(field.whole for field in reversed(live))


def _ends(node: bytes) -> tuple[set[str], set[str]]:
    """Return the names that a node reads, those read in its bodies among them, and those that it makes."""
    reads: set[str] = set()
    makes: set[str] = set()
    for field in _fields(node):
        if field.number == 1:
            reads.add(field.content.decode())
        elif field.number == 2:  # noqa: PLR2004
            makes.add(field.content.decode())
        elif field.number == 5:  # noqa: PLR2004
            for part in _fields(field.content):
                if part.number in {6, 11} and part.kind == _BYTES:
                    reads |= _read_in_body(part.content)
    return reads, makes - {""}


def _read_in_body(graph: bytes) -> set[str]:
    reads: set[str] = set()
    for field in _fields(graph):
        if field.number == 1:
            reads |= _ends(field.content)[0]
        elif field.number == 12:  # noqa: PLR2004
            reads.add(_name(field.content))
    return reads


def _name(value_info: bytes) -> str:
    return next((field.content.decode() for field in _fields(value_info) if field.number == 1), "")


def _fields(message: bytes) -> Iterator[_Field]:
    place = 0
    while place < len(message):
        start = place
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        content = b""
        if kind == _VARINT:
            _, place = _varint(message, place)
        elif kind == _BYTES:
            size, place = _varint(message, place)
            content = message[place : place + size]
            place += size
        elif kind in {_FIXED64, _FIXED32}:
            place += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        if place > len(message):
            raise ValueError(f"field {number} ends beyond its message")
        yield _Field(number, kind, content, message[start:place])


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        if place >= len(message):
            raise ValueError("the message ends within a number")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place


def _message(number: int, content: bytes) -> bytes:
    size, encoded = len(content), bytearray()
    while True:
        encoded.append(size & 0x7F | (0x80 if size > 0x7F else 0))  # noqa: PLR2004
        size >>= 7
        if not size:
            return bytes([number << 3 | _BYTES]) + bytes(encoded) + content

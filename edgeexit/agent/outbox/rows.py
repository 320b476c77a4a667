"""The rows of the outbox: each one has a checksum, so that damage on the disk is found row by row."""

import zlib
from typing import Any, Final, Literal, NamedTuple, cast, get_args

OutboxKind = Literal["report", "audit"]
RowKind = Literal["report", "audit", "losses"]

_ROW_KINDS: Final[tuple[str, ...]] = get_args(RowKind)
_MAX_INTEGER: Final = 2**63 - 1

MessageKey = tuple[str, int]
"""(start, sequence): names a message for ever."""


class OutboxEntry(NamedTuple):
    """What the outbox knows of a stored message without reading it."""

    id: int
    """Place in the order of the outbox; it stays the same when the outbox moves between disk and memory."""
    kind: OutboxKind
    start: str
    sequence: int
    revision: int
    window: int
    """Number of the period of uptime in which a report was made; 0 for an audit."""
    size: int
    """Bytes of the payload."""

    @property
    def key(self) -> MessageKey:
        """The identity of the message."""
        return self.start, self.sequence


class OutboxRow(NamedTuple):
    """A stored row: a message, or the count of losses."""

    id: int
    kind: RowKind
    start: str
    sequence: int
    revision: int
    window: int
    payload: bytes

    @property
    def entry(self) -> OutboxEntry:
        """The row without its payload; only for messages."""
        return OutboxEntry(
            self.id,
            cast("OutboxKind", self.kind),
            self.start,
            self.sequence,
            self.revision,
            self.window,
            len(self.payload),
        )

    @property
    def checksum(self) -> int:
        """CRC-32 of everything but the id, which only orders the rows."""
        head = f"{self.kind} {self.start} {self.sequence} {self.revision} {self.window}\n".encode()
        return zlib.crc32(self.payload, zlib.crc32(head))


def check_row(values: tuple[Any, ...]) -> OutboxRow | None:
    """Return the row with these column values, the last of which is its checksum; None if it is damaged.

    A flipped bit can change the type of a column, so each type is checked. Texts are passed as bytes.
    """
    try:
        identifier, kind, start, sequence, revision, window, payload, checksum = values
        row = OutboxRow(identifier, kind.decode(), start.decode(), sequence, revision, window, payload)
    except (ValueError, AttributeError):
        return None
    integers = (row.id, row.sequence, row.revision, row.window)
    if not all(isinstance(value, int) and 0 <= value <= _MAX_INTEGER for value in integers):
        return None
    if row.kind not in _ROW_KINDS or not isinstance(payload, bytes) or row.checksum != checksum:
        return None
    return row

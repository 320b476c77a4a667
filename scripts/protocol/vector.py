"""One golden message, and what is expected of it."""

from typing import NamedTuple


class Vector(NamedTuple):
    """One golden message."""

    file: str
    channel: str
    payload: bytes
    why: str
    """What the message shows; for an invalid one, why it must be refused."""
    error: str | None = None
    """Part of the error of this implementation; None for a valid message."""

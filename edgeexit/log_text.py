"""Makes text from outside (messages, exceptions) safe for one log line."""

from typing import Final

_MAX_LENGTH: Final = 300


def one_line(text: str) -> str:
    """Return printable text on one line of at most 300 characters; an ellipsis marks text that was cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_LENGTH]).split())
    return line if len(line) <= _MAX_LENGTH else f"{line[: _MAX_LENGTH - 1]}…"

"""Small JSON files with a checksum, so that a flipped bit does not turn one valid value into another."""

import zlib
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from edgeexit.files import read_limited, write_atomic

_MAX_BYTES: Final = 64 * 1024

Content = TypeVar("Content", bound=msgspec.Struct)


class _Checked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    content: msgspec.Raw
    crc32: int
    """Of the JSON of `content`."""


def write_checked(path: Path, content: msgspec.Struct) -> None:
    """Write a document atomically, with mode 0600; create its folder if that is gone. Raises OSError."""
    encoded = msgspec.json.encode(content)
    checked: Any = _Checked(msgspec.Raw(encoded), zlib.crc32(encoded))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode(checked), mode=0o600)


def read_checked(path: Path, kind: type[Content]) -> Content | None:
    """Return the document in a file; None if there is no file.

    Raises OSError if the file cannot be read or is larger than 64 KiB, and ValueError if it is damaged.
    """
    try:
        encoded = read_limited(path, max_bytes=_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        checked = msgspec.json.decode(encoded, type=_Checked)
        if zlib.crc32(bytes(checked.content)) == checked.crc32:
            return msgspec.json.decode(checked.content, type=kind)
    except (msgspec.DecodeError, RecursionError):
        pass
    raise ValueError(f"'{path}' is damaged")

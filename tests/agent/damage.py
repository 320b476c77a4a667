"""Damages files for tests."""

from pathlib import Path

from edgeexit.files import write_atomic


def encrypt(path: Path) -> None:
    """Mark a zip archive as encrypted, which causes an unusual error on reading."""
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(magic)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(magic, place + 1)
    write_atomic(path, bytes(content))

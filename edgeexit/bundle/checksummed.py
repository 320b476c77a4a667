"""JSON documents that are stored with their SHA-256 in the same file: `policy.json` and `profile.json`."""

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgeexit.bundle.layout import MAX_BYTES, POLICY, PROFILE
from edgeexit.errors import BundleError
from edgeexit.files import read_limited

_COMMANDS: Final = {POLICY: "edgeexit fit", PROFILE: "edgeexit profile"}
"""File name -> the command that writes the file again."""


class _ChecksummedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content: a document and the SHA-256 of its compact JSON."""

    sha256: str
    document: msgspec.Raw


class StoredDocument(NamedTuple):
    """A document whose checksum is right."""

    content: bytes
    """Its compact JSON."""
    file_sha256: str
    """SHA-256 of the file that `content` was read from; signatures cover it."""


def encode_checksummed(name: str, content: bytes) -> bytes:
    """Return the file `name` with a document, given as compact JSON, and its checksum.

    Raises BundleError if it is larger than `read_checksummed` accepts.
    """
    checksummed = _ChecksummedDocument(sha256=hashlib.sha256(content).hexdigest(), document=msgspec.Raw(content))
    file = msgspec.json.format(msgspec.json.encode(checksummed), indent=2) + b"\n"
    if len(file) > MAX_BYTES[name]:
        raise BundleError(
            f"{name} would have {len(file):,} bytes, and {MAX_BYTES[name]:,} bytes are allowed, so it was not written; "
            f"run `{_COMMANDS[name]}` with options that give a smaller file"
        )
    return file


def read_checksummed(path: Path) -> StoredDocument | None:
    """Return the document in `path`, or None if the file does not exist.

    Raises BundleError if the file cannot be read, is not a regular file, is too large, is not valid JSON, or does not
    match its checksum.
    """
    where = f"bundle '{path.parent}': {path.name}"
    try:
        file = read_limited(path, max_bytes=MAX_BYTES[path.name])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{where}: {error.strerror}; {advice(path.name)}") from error
    try:
        checksummed = msgspec.json.decode(file, type=_ChecksummedDocument)
        content = msgspec.json.format(bytes(checksummed.document), indent=-1)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BundleError(f"{where} is damaged: {error}; {advice(path.name)}") from error
    if hashlib.sha256(content).hexdigest() != checksummed.sha256:
        raise BundleError(f"{where} is damaged: its checksum does not match its content; {advice(path.name)}")
    return StoredDocument(content, hashlib.sha256(file).hexdigest())


def advice(name: str) -> str:
    """Return the advice in an error about the file `name`: the command that writes it again."""
    return f"run `{_COMMANDS[name]}` again"

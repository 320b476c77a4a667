"""Writes files so that they survive a power cut, and computes their digests."""

import ctypes
import hashlib
import os
import tempfile
from pathlib import Path

_READ_SIZE = 1 << 20
_AT_FDCWD = -100  # <fcntl.h>
_RENAME_EXCHANGE = 2  # <linux/fs.h>


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex, read in chunks. Raises OSError if the file cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write `content` to `path` atomically: after a crash, `path` is the complete old file or the complete new one.

    Writes a temporary file in the same folder, then calls fsync, rename, and fsync on the folder. Raises OSError (e.g.
    disk full, no permission), which names `path`; the temporary file is removed.
    """
    try:
        _write_and_rename(path, content, mode)
    except OSError as error:  # it may name the temporary file, or no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    fsync_folder(path.parent)


def _write_and_rename(path: Path, content: bytes, mode: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def exchange(first: Path, second: Path) -> bool:
    """Atomically exchange two paths of one file system. Return False if it fails, e.g. without renameat2 in libc."""
    try:
        rename = ctypes.CDLL(None).renameat2  # Linux, with glibc 2.28 or newer
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def fsync_file(file: Path) -> None:
    """Flush the content of an existing file to disk. Raises OSError if it fails."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, e.g. after a rename. Raises OSError if it fails."""
    fsync_file(folder)

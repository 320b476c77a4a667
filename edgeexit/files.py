"""Writing files that survive a power cut, and digests of what was written."""

import ctypes
import hashlib
import os
import tempfile
from pathlib import Path

_READ_SIZE = 1 << 20
_HERE = -100  # AT_FDCWD of <fcntl.h>
_EXCHANGE = 2  # RENAME_EXCHANGE of <linux/fs.h>


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_SIZE):
            digest.update(piece)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write `content` to `path` so that a crash leaves either the old file or the new one, whole.

    Temporary file in the same folder, fsync, rename, fsync of the folder. Raises OSError (disk full, no
    permission) that names `path`; the temporary file is gone then.
    """
    try:
        _write_and_rename(path, content, mode)
    except OSError as error:  # which may name the temporary file, or none
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
    """Exchange two names on one disk, in one step; say False where the system or the disk's format cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2  # Linux, with glibc 2.28 or newer
    except (AttributeError, OSError):
        return False
    return bool(rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0)


def fsync_file(file: Path) -> None:
    """Make the content of a file that is written already durable."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fsync_file(folder)

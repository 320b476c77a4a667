"""Writes a file next to its final name, and gives it this name when it is complete: a reader never sees a part."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgeexit.files import fsync_file, fsync_folder
from edgeexit_calibration.store.errors import DatabaseError


@contextlib.contextmanager
def new_private_file(file: Path, *, needed_bytes: int) -> Iterator[Path]:
    """Yield an empty file with mode 0600 that becomes `file` when the block ends; it is deleted if the block raises.

    Raises DatabaseError if `file` exists, its folder does not, or the disk has not enough space.
    """
    if file.exists():
        raise DatabaseError(f"'{file}' exists; remove it, or write another file")
    if not file.parent.is_dir():
        raise DatabaseError(f"folder '{file.parent}' does not exist; create it, or write into another one")
    free = shutil.disk_usage(file.parent).free
    if free < needed_bytes:
        raise DatabaseError(
            f"'{file}' needs {needed_bytes / 1e6:.1f} MB, but its disk has {free / 1e6:.1f} MB; free space, or write "
            "to another disk"
        )
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield partial
        fsync_file(partial)
        partial.rename(file)
        fsync_folder(file.parent)
    except OSError as error:
        raise DatabaseError(f"'{file}' cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)

"""Folders that only their owner may enter, and one command at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edgeexit.errors import ConfigError


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, new ones with mode 0700 for every umask."""
    if not folder.is_dir():
        make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against another command. Raises ConfigError if one runs."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ConfigError(f"another `edgeexit keys` command uses '{folder}'; wait until it has ended") from error
    try:
        yield
    finally:
        os.close(handle)

"""One agent to a state folder: two would number messages alike, and take each other's name at the broker."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeexit.errors import ConfigError

_log = logging.getLogger(__name__)

FILE: Final = "agent.lock"


@contextlib.contextmanager
def only_agent(folder: Path) -> Iterator[None]:
    """Keep other agents from a state folder as long as the block runs, or the process lives.

    A folder that cannot be written is only warned about. Raises ConfigError where another agent has the folder.
    """
    handle = _open(folder)
    try:
        if handle is not None:
            _lock(handle, folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)  # the kernel does the same for a process that is killed; the file stays


def _open(folder: Path) -> int | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / FILE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        _warn(folder, error)
        return None


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another agent runs with state_dir '{folder}'; stop it, or give this one a state_dir and a device name of "
            "its own"
        ) from error
    except OSError as error:  # a file system that knows no locks
        _warn(folder, error)


def _warn(folder: Path, error: OSError) -> None:
    _log.warning("state_dir '%s' cannot be locked (%s); see that no second agent uses it", folder, error.strerror)

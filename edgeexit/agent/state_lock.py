"""Locks a state folder for one agent: two would use the same sequence numbers and the same MQTT client id."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeexit.errors import ConfigError
from edgeexit.private_files import make_private_folder
from edgeexit.runtime.fork import unwatch, watch

_log = logging.getLogger(__name__)

FILE: Final = "agent.lock"


class _LockFile:
    """The open file that holds the lock."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def lock_state_dir(folder: Path) -> Iterator[None]:
    """Lock a state folder against other agents while the block runs.

    Only the agent's user may read the folder (`make_private_folder`). If it is not writable, log a warning and
    continue. Raises ConfigError if another agent uses the folder, or if it or a file in it belongs to another user.
    """
    handle = _open(folder)
    if handle is None:
        yield
        return
    opened = _LockFile(handle)
    watch(opened, _LockFile.close)  # a forked child that kept the file open would hold the lock, too
    try:
        _lock(handle, folder)
        yield
    finally:
        unwatch(opened)
        opened.close()  # releases the lock; the kernel does this for a killed process, too


def _open(folder: Path) -> int | None:
    try:
        make_private_folder(folder)
        return os.open(folder / FILE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _warn(folder, error)
        return None


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another agent uses state_dir '{folder}'; stop it, or set another state_dir and device name for this one"
        ) from error
    except OSError as error:  # a file system without locks
        _warn(folder, error)


def _warn(folder: Path, error: OSError) -> None:
    _log.warning("state_dir '%s' cannot be locked (%s); make sure that no other agent uses it", folder, error.strerror)

"""Locks a state folder for one agent: two would replace each other's files, and share an MQTT client id."""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeexit.errors import ConfigError
from edgeexit.private_files import make_private_folder
from edgeexit.runtime.fork import unwatch, watch

_log = logging.getLogger(__name__)

FILE: Final = "agent.lock"


class StateLock:
    """The lock of a state folder, from `lock_state_dir`. Thread-safe.

    Attributes:
        problem: why the folder is not locked, or None.
        retaken: how often the folder was created and locked again; it was empty then.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None
        self._mutex = threading.Lock()
        self.problem: str | None = None
        self.retaken = 0
        try:
            self._open()
        except OSError as error:
            self._note(error)
            _log.warning("%s; make sure that no other agent uses it", self.problem)

    def retake(self) -> None:
        """Create and lock the folder again if it was removed, or could not be locked before.

        Raises ConfigError if another agent uses the folder, or it belongs to another user. If the disk fails, only
        `problem` says so.
        """
        with self._mutex:
            if self._is_held():
                return
            self.close()
            try:
                self._open()
            except ConfigError as error:
                self.problem = str(error)
                raise
            except OSError as error:
                self._note(error)
            else:
                self.retaken += 1
                _log.warning("state_dir '%s' was removed or replaced; it is created and locked again", self._folder)

    def close(self) -> None:
        """Release the lock; the kernel does this for a killed process, too."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _is_held(self) -> bool:
        """Return True if the file in the folder is the one that is locked."""
        if self._handle is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._handle), os.lstat(self._folder / FILE))
        except OSError:
            return False

    def _open(self) -> None:
        make_private_folder(self._folder)
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO does not wait
        handle = os.open(self._folder / FILE, flags, 0o600)
        self.problem = None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise ConfigError(
                f"another agent uses state_dir '{self._folder}'; stop it, or set another state_dir and device name for "
                "this one"
            ) from error
        except OSError as error:  # a file system without locks
            self._note(error)
        self._handle = handle

    def _note(self, error: OSError) -> None:
        self.problem = f"state_dir '{self._folder}' cannot be locked ({error.strerror or error})"


@contextlib.contextmanager
def lock_state_dir(folder: Path) -> Iterator[StateLock]:
    """Lock a state folder against other agents while the block runs.

    Only the agent's user may read the folder (`make_private_folder`). If it is not writable, log a warning and
    continue. Raises ConfigError if another agent uses the folder, or if it or a file in it belongs to another user.
    """
    lock = StateLock(folder)
    watch(lock, StateLock.close)  # a forked child that kept the file open would hold the lock, too
    try:
        yield lock
    finally:
        unwatch(lock)
        lock.close()

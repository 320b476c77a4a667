"""Folders and files that only their owner may read: the state of an agent, and databases."""

import contextlib
import logging
import os
import stat
from pathlib import Path
from typing import Final

from edgeexit.errors import ConfigError

_log = logging.getLogger(__name__)

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077
_DATABASE_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")


def make_private_folder(folder: Path) -> None:
    """Create a folder with mode 0700, or reduce the mode of an existing one, and of the files in it, with a log line.

    A folder or file of another user is refused, and so is a link of another user, which could lead anywhere. Root is
    not another user.

    Raises ConfigError for such a folder or file, and OSError if the folder cannot be created or read.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=_FOLDER_MODE)
    except FileExistsError:
        _require_own(folder, folder.lstat())
    # The descriptor names one folder, even if the path is replaced meanwhile.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        _require_own(folder, status)
        if status.st_mode & _OTHERS:
            _reduce(folder, status, _FOLDER_MODE)
        for name in os.listdir(handle):  # noqa: PTH208 - of the opened folder, not of the path
            try:
                status = os.stat(name, dir_fd=handle, follow_symlinks=False)
            except FileNotFoundError:
                continue  # SQLite in another process has removed one of its files
            if stat.S_ISDIR(status.st_mode):
                continue
            _require_own(folder / name, status)
            if stat.S_ISLNK(status.st_mode) and not (folder / name).is_dir():
                raise ConfigError(f"'{folder / name}' is a link, not a file; remove it, or use another folder")
            if stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS:
                _reduce(folder / name, status, _FILE_MODE)
    finally:
        os.close(handle)


def make_private_database(path: Path, *, create: bool = True) -> None:
    """Create the file of an SQLite database with mode 0600, or reduce the mode of an existing one, with a log line.

    SQLite gives its other files (`-wal`, `-shm`, `-journal`) the mode of the database. Existing ones are reduced, too.
    An existing file is never opened: closing it would release the locks that SQLite holds on it in this process. Files
    of another user are left as they are. Raises OSError if the file cannot be created.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    for suffix in _DATABASE_SUFFIXES:
        file = path.with_name(path.name + suffix)
        try:
            status = file.stat()
        except OSError:
            continue  # SQLite reports a file that it cannot open
        if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS:
            _reduce(file, status, _FILE_MODE)


def _require_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in {os.geteuid(), 0}:
        what = "is a link of" if stat.S_ISLNK(status.st_mode) else "belongs to"
        raise ConfigError(
            f"'{path}' {what} another user (uid {status.st_uid}), who could read or replace what is stored there; "
            f"change its owner to uid {os.geteuid()}, or use another path"
        )


def _reduce(path: Path, status: os.stat_result, mode: int) -> None:
    found = stat.S_IMODE(status.st_mode)
    try:
        path.chmod(mode)
        problem = "the file system ignores it" if path.stat().st_mode & _OTHERS else None
    except OSError as error:  # a read-only disk, root owns it, or a file system without modes
        problem = error.strerror
    if problem is not None:
        _log.warning("'%s' has mode %04o, and it cannot be changed to %04o: %s", path, found, mode, problem)
    else:
        _log.warning("'%s' had mode %04o; only its owner may read it now (%04o)", path, found, mode)

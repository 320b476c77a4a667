"""The SQLite file of the outbox: one transaction per change, and a new file in the place of a damaged one."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from edgeexit.agent.outbox.committed_log import CommittedLog, read_log
from edgeexit.agent.outbox.rows import OutboxRow, check_row
from edgeexit.agent.outbox.salvage import read_damaged, scan
from edgeexit.agent.outbox.schema import COLUMNS, check_file, connect, damage_as_error, insert_rows
from edgeexit.limited_log import LimitedLog
from edgeexit.private_files import make_private_database, make_private_folder

_log = logging.getLogger(__name__)
_limited = LimitedLog(_log)

_UNUSABLE: Final = ("disk", "full", "locked", "unable to open", "readonly", "busy")
"""Words in SQLite's errors about a disk that cannot be used now; other errors are about damaged content."""


class RowStore(Protocol):
    """Where the rows of the outbox are."""

    def rows(self) -> Iterator[OutboxRow]:
        """Yield all rows in the order of their ids."""

    def read(self, identifier: int) -> OutboxRow | None:
        """Return a row; None if it is missing or damaged."""

    def write(self, *, insert: Iterable[OutboxRow] = (), delete: Iterable[int] = ()) -> None:
        """Delete rows, then insert or replace rows, in one transaction."""

    def close(self) -> None:
        """Release the store."""


class RowsInMemory:
    """Keeps the rows in memory."""

    def __init__(self) -> None:
        self._rows: dict[int, OutboxRow] = {}

    def rows(self) -> Iterator[OutboxRow]:
        """Yield all rows in the order of their ids."""
        return iter(sorted(self._rows.values()))

    def read(self, identifier: int) -> OutboxRow | None:
        """Return a row, or None if it is missing."""
        return self._rows.get(identifier)

    def write(self, *, insert: Iterable[OutboxRow] = (), delete: Iterable[int] = ()) -> None:
        """Delete rows, then insert or replace rows."""
        for identifier in delete:
            self._rows.pop(identifier, None)
        self._rows.update((row.id, row) for row in insert)

    def close(self) -> None:
        """Do nothing."""


class RowFile:
    """Keeps the rows in an SQLite file that only this process uses. Its methods raise sqlite3.Error.

    Args:
        path: the file; it is created with mode 0600, its folder with mode 0700. If the file is damaged, the rows that
            are still readable are moved to a new file, and the damaged one is kept beside it with the suffix `.broken`.

    Raises OSError or sqlite3.Error if the disk cannot be used, ConfigError if the folder belongs to another user.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_suffix(".new")
        self.damaged = 0
        """Number of rows that were damaged when the file was opened, as far as they can be counted."""
        make_private_folder(path.parent)
        self._finish_replacing()
        # The log may be damaged or belong to another file, and opening it changes this one; so read both alone.
        log = read_log(_log_of(path))
        alone = scan(path, options="?immutable=1")[0] if log.frames and path.exists() else []
        try:
            with damage_as_error():
                self._connection = self._open(log.frames)
        except sqlite3.Error as error:
            if _is_unusable(error, path):
                raise
            self._connection = self._replace_damaged(error, alone, log)
        self._files = self._identities()

    @property
    def replaced(self) -> bool:
        """True if another file, or none, is at the path now: what is written to this one would not be found later."""
        now = self._identities()
        if now[1] is not None and self._files[1] is None:
            self._files = now[0], now[1]  # SQLite creates the write-ahead log with the first change
            return now[0] is None or now[0] != self._files[0]
        return now[0] is None or now != self._files

    def rows(self) -> Iterator[OutboxRow]:
        """Yield all undamaged rows in the order of their ids."""
        for values in self._connection.execute(f"SELECT {COLUMNS} FROM message ORDER BY id"):  # noqa: S608 - constant
            if (row := check_row(values)) is not None:
                yield row

    def read(self, identifier: int) -> OutboxRow | None:
        """Return a row; None if it is missing or damaged."""
        query = f"SELECT {COLUMNS} FROM message WHERE id = ?"  # noqa: S608 - constant
        with damage_as_error():
            values = self._connection.execute(query, (identifier,)).fetchone()
        return None if values is None else check_row(values)

    def write(self, *, insert: Iterable[OutboxRow] = (), delete: Iterable[int] = ()) -> None:
        """Delete rows, then insert or replace rows, in one transaction."""
        with self._connection as database:
            database.executemany("DELETE FROM message WHERE id = ?", ((identifier,) for identifier in delete))
            insert_rows(database, insert)

    def replace_all(self, rows: Iterable[OutboxRow]) -> None:
        """Replace all rows in one transaction."""
        with self._connection as database:
            database.execute("DELETE FROM message")
            insert_rows(database, rows)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _open(self, logged: int = 0) -> sqlite3.Connection:
        """Open and check the file; `logged` is the number of frames that its write-ahead log should have."""
        make_private_database(self._path)
        connection = connect(self._path)
        try:
            recovered = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            check_file(connection, complete=recovered >= logged)
            damaged = [
                values[0]
                for values in connection.execute(f"SELECT {COLUMNS} FROM message")  # noqa: S608 - constant
                if check_row(values) is None
            ]
            if damaged:
                _limited.warning(
                    ("rows", self._path), "outbox '%s': %d damaged rows are deleted, the others are kept",
                    self._path, len(damaged),
                )  # fmt: skip
                with connection:
                    connection.executemany("DELETE FROM message WHERE id = ?", ((value,) for value in damaged))
            self.damaged += len(damaged)
        except BaseException:
            connection.close()
            raise
        return connection

    def _replace_damaged(self, error: sqlite3.Error, alone: list[OutboxRow], log: CommittedLog) -> sqlite3.Connection:
        """Put a new file with the readable rows in the place of the damaged one."""
        rows, self.damaged = read_damaged(self._path, alone, log)
        aside = self._path.with_suffix(".broken")
        _limited.warning(
            ("file", self._path),
            "outbox '%s' is damaged (%s); %d messages are readable and kept, the file is kept as '%s'",
            self._path, error, sum(row.kind != "losses" for row in rows), aside.name,
        )  # fmt: skip
        # The new file is complete before the old one goes: a crash in between finds one of them.
        new = self._new
        _remove(new)
        make_private_database(new)
        with contextlib.closing(connect(new)) as database:
            check_file(database)
            with database:
                insert_rows(database, rows)
        self._path.replace(aside)
        self._finish_replacing()
        return self._open()

    def _finish_replacing(self) -> None:
        """Rename the new file, now or after a crash, if there is no file at the path."""
        if self._new.exists() and not self._path.exists():
            _remove(self._path)  # its write-ahead log
            self._new.replace(self._path)

    def _identities(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Return device and inode of the file and of its write-ahead log, None for one that does not exist."""
        return _identity(self._path), _identity(_log_of(self._path))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _is_unusable(error: sqlite3.Error, path: Path) -> bool:
    """Return True if the error is about the disk or another process, not about the content of the file."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    text = str(error)
    if "readonly" in text and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return False  # the header names an unknown version of the format
    return any(word in text for word in _UNUSABLE)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

"""The SQLite file of the outbox: one transaction per change, and a new file in the place of a damaged one."""

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from edgeexit.agent.outbox_rows import OutboxRow, check_row
from edgeexit.private_files import make_private_database, make_private_folder

_log = logging.getLogger(__name__)

_PAGE_BYTES: Final = 4096
_TABLE: Final = (
    "CREATE TABLE message (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, start TEXT NOT NULL, sequence INTEGER NOT NULL, "
    "revision INTEGER NOT NULL, window INTEGER NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL)"
)
_COLUMNS: Final = "id, kind, start, sequence, revision, window, payload, checksum"
_UNUSABLE: Final = ("disk", "full", "locked", "unable to open", "readonly", "busy")
"""Words in SQLite's errors about a disk that cannot be used now; other errors are about damaged content."""
_MAX_UNREADABLE: Final = 4096
"""Ids tried one by one behind a damaged page, before the rest of the file is given up."""


@contextlib.contextmanager
def _damage_as_error() -> Iterator[None]:
    """Raise sqlite3.DatabaseError for the errors of another class that damaged files cause, too."""
    try:
        yield
    except (UnicodeDecodeError, OverflowError) as error:  # a damaged name in the text of an error, a damaged number
        raise sqlite3.DatabaseError(f"damaged text or number: {error.__class__.__name__}") from error


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
        # The log may belong to another file, and opening it changes this one; so read what is in the file alone.
        alone = _scan(path, options="?immutable=1")[0] if _log_of(path).exists() and path.exists() else []
        try:
            with _damage_as_error():
                self._connection = self._open()
        except sqlite3.Error as error:
            if _is_unusable(error, path):
                raise
            self._connection = self._replace_damaged(error, alone)
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
        for values in self._connection.execute(f"SELECT {_COLUMNS} FROM message ORDER BY id"):  # noqa: S608 - constant
            if (row := check_row(values)) is not None:
                yield row

    def read(self, identifier: int) -> OutboxRow | None:
        """Return a row; None if it is missing or damaged."""
        query = f"SELECT {_COLUMNS} FROM message WHERE id = ?"  # noqa: S608 - constant
        with _damage_as_error():
            values = self._connection.execute(query, (identifier,)).fetchone()
        return None if values is None else check_row(values)

    def write(self, *, insert: Iterable[OutboxRow] = (), delete: Iterable[int] = ()) -> None:
        """Delete rows, then insert or replace rows, in one transaction."""
        with self._connection as database:
            database.executemany("DELETE FROM message WHERE id = ?", ((identifier,) for identifier in delete))
            _insert(database, insert)

    def replace_all(self, rows: Iterable[OutboxRow]) -> None:
        """Replace all rows in one transaction."""
        with self._connection as database:
            database.execute("DELETE FROM message")
            _insert(database, rows)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        make_private_database(self._path)
        connection = _connect(self._path)
        try:
            _check(connection)
            damaged = [
                values[0]
                for values in connection.execute(f"SELECT {_COLUMNS} FROM message")  # noqa: S608 - constant
                if check_row(values) is None
            ]
            if damaged:
                _log.warning("outbox '%s': %d damaged rows are deleted, the others are kept", self._path, len(damaged))
                with connection:
                    connection.executemany("DELETE FROM message WHERE id = ?", ((value,) for value in damaged))
            self.damaged += len(damaged)
        except BaseException:
            connection.close()
            raise
        return connection

    def _replace_damaged(self, error: sqlite3.Error, alone: list[OutboxRow]) -> sqlite3.Connection:
        """Put a new file with the readable rows in the place of the damaged one."""
        rows, self.damaged = _read_damaged(self._path, alone)
        aside = self._path.with_suffix(".broken")
        _log.warning(
            "outbox '%s' is damaged (%s); %d messages are readable and kept, the file is kept as '%s'",
            self._path, error, sum(row.kind != "losses" for row in rows), aside.name,
        )  # fmt: skip
        # The new file is complete before the old one goes: a crash in between finds one of them.
        new = self._new
        _remove(new)
        make_private_database(new)
        with contextlib.closing(_connect(new)) as database:
            _check(database)
            with database:
                _insert(database, rows)
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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, check_same_thread=False)
    connection.text_factory = bytes  # a damaged text need not be UTF-8
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if connection.execute("PRAGMA page_count").fetchone()[0] <= 1 and not _tables(connection):
            connection.execute(_TABLE)
    except BaseException:
        connection.close()
        raise
    return connection


def _tables(connection: sqlite3.Connection) -> list[bytes]:
    return [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")]


def _check(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError if pages or schema of the file are damaged, sqlite3.Error if it is not writable."""
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != b"ok":
        raise sqlite3.DatabaseError(result.decode(errors="replace"))
    if _tables(connection) != [_TABLE.encode()]:
        raise sqlite3.DatabaseError("its tables are not those of an outbox")
    with connection:
        connection.execute("DELETE FROM message WHERE id = -1")  # takes the lock for writing


def _insert(database: sqlite3.Connection, rows: Iterable[OutboxRow]) -> None:
    database.executemany(
        "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ((*row, row.checksum) for row in rows)
    )


def _is_unusable(error: sqlite3.Error, path: Path) -> bool:
    """Return True if the error is about the disk or another process, not about the content of the file."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    text = str(error)
    if "readonly" in text and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return False  # the header names an unknown version of the format
    return any(word in text for word in _UNUSABLE)


def _read_damaged(path: Path, alone: list[OutboxRow]) -> tuple[list[OutboxRow], int]:
    """Return the undamaged rows that can be found in a damaged file, and the number of damaged ones that were seen.

    The file is read as it is, with another first page, and without its write-ahead log. Only copies of it are opened.
    `alone` are the rows that it had before its log was applied. Raises OSError if there is no room for the copies.
    """
    found: dict[tuple[str, int], OutboxRow] = {}
    damaged = 0
    log = _log_of(path)
    for first_page, with_log in ((False, True), (True, True), (True, False)):
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".outbox.") as folder:
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            if with_log and log.exists():
                shutil.copyfile(log, copy.with_name(log.name))
            if first_page:
                _replace_first_page(copy)
            rows, bad = _scan(copy)
        damaged = max(damaged, bad)
        for row in rows:
            found.setdefault((row.start, row.sequence), row)
    for row in alone:
        found.setdefault((row.start, row.sequence), row)
    by_id: dict[int, OutboxRow] = {}
    for row in found.values():  # two rows with one id: the file and a foreign write-ahead log
        identifier = row.id if row.id not in by_id else max(by_id) + 1
        by_id[identifier] = row._replace(id=identifier)
    return list(by_id.values()), max(damaged, 1)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _scan(path: Path, *, options: str = "") -> tuple[list[OutboxRow], int]:
    """Return the undamaged rows of a file, and the number of damaged ones; never raise an error about its content."""
    rows: dict[int, OutboxRow] = {}
    try:
        connection = sqlite3.connect(path.absolute().as_uri() + options, uri=True, timeout=0)
    except sqlite3.Error:
        return [], 0
    with contextlib.closing(connection):
        connection.text_factory = bytes
        damaged = _scan_in_order(connection, rows, first=-1, step=1)
        if damaged:  # behind damage, the order of the ids may be wrong: a row can be found from one side only
            _scan_in_order(connection, rows, first=max(rows, default=0) + _MAX_UNREADABLE, step=-1)
    return list(rows.values()), damaged


def _scan_in_order(connection: sqlite3.Connection, rows: dict[int, OutboxRow], *, first: int, step: int) -> int:
    """Add the undamaged rows to `rows`, upwards (`step` 1) or downwards (-1); return the number of damaged ones."""
    condition = "id > ? ORDER BY id" if step > 0 else "id < ? ORDER BY id DESC"
    query = f"SELECT {_COLUMNS} FROM message NOT INDEXED WHERE {condition}"  # noqa: S608 - constants
    damaged, unreadable, last = 0, 0, first
    while unreadable < _MAX_UNREADABLE:
        try:
            for values in connection.execute(query, (last,)):
                unreadable = 0
                last = values[0] if isinstance(values[0], int) else last + step
                if (row := check_row(values)) is None:
                    damaged += 1
                else:
                    rows[row.id] = row
        except (sqlite3.Error, ValueError, OverflowError):  # noqa: PERF203 - the next id may be readable
            damaged += unreadable == 0
            unreadable += 1
            last += step
        else:
            break
    return damaged


def _replace_first_page(path: Path) -> None:
    """Replace the header and the schema, which are the same in every outbox."""
    template = path.with_name("template.db")
    with contextlib.closing(_connect(template)):
        pass
    pages = max(path.stat().st_size // _PAGE_BYTES, 2)
    page = bytearray(template.read_bytes()[:_PAGE_BYTES])
    page[28:32] = pages.to_bytes(4, "big")
    page[92:96] = page[24:28]  # the number of pages is valid for this version
    with path.open("r+b") as file:
        file.write(page)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

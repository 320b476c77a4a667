"""The table of the outbox in SQLite: one table, whose rows carry checksums."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from edgeexit.agent.outbox.committed_log import PAGE_BYTES
from edgeexit.agent.outbox.rows import OutboxRow

_TABLE: Final = (
    "CREATE TABLE message (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, start TEXT NOT NULL, sequence INTEGER NOT NULL, "
    "revision INTEGER NOT NULL, window INTEGER NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL)"
)
_LOG_BYTES: Final = 4 * 1024 * 1024
"""A write-ahead log that is larger after its content is in the file is cut: it would stay as large as ever needed."""
COLUMNS: Final = "id, kind, start, sequence, revision, window, payload, checksum"


def connect(path: Path) -> sqlite3.Connection:
    """Open a file that only this process may use, and create the table in a new one. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=0, check_same_thread=False)
    connection.text_factory = bytes  # a damaged text need not be UTF-8
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        if connection.execute("PRAGMA page_count").fetchone()[0] <= 1 and not _tables(connection):
            connection.execute(_TABLE)
    except BaseException:
        connection.close()
        raise
    return connection


def _tables(connection: sqlite3.Connection) -> list[bytes]:
    return [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")]


def check_file(connection: sqlite3.Connection, *, complete: bool = True) -> None:
    """Raise sqlite3.DatabaseError if pages or schema of the file are damaged, sqlite3.Error if it is not writable.

    `complete` is False if SQLite has not recovered all of its write-ahead log.
    """
    if not complete:
        raise sqlite3.DatabaseError("its write-ahead log is damaged")
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != b"ok":
        raise sqlite3.DatabaseError(result.decode(errors="replace"))
    if _tables(connection) != [_TABLE.encode()]:
        raise sqlite3.DatabaseError("its tables are not those of an outbox")
    with connection:
        connection.execute("DELETE FROM message WHERE id = -1")  # takes the lock for writing


def insert_rows(database: sqlite3.Connection, rows: Iterable[OutboxRow]) -> None:
    """Insert or replace rows, with their checksums."""
    database.executemany(
        "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ((*row, row.checksum) for row in rows)
    )


@contextlib.contextmanager
def damage_as_error() -> Iterator[None]:
    """Raise sqlite3.DatabaseError for the errors of another class that damaged files cause, too."""
    try:
        yield
    except (UnicodeDecodeError, OverflowError) as error:  # a damaged name in the text of an error, a damaged number
        raise sqlite3.DatabaseError(f"damaged text or number: {error.__class__.__name__}") from error

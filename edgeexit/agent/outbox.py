"""Keeps reports and audits in SQLite until the calibrator acknowledges that its database holds them.

A PUBACK only means that the broker has a message; `down/ack` means that the calibrator has stored it.
"""

import contextlib
import logging
import secrets
import sqlite3
import threading
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from edgeexit.errors import MessageError
from edgeexit.private_files import make_private_database
from edgeexit.wire import Ack, Audit, Losses, Report, encode

_log = logging.getLogger(__name__)

FILE: Final = "outbox.db"

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS outbox (dropped INTEGER NOT NULL)",
    (
        "CREATE TABLE IF NOT EXISTS message (sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, "
        "start TEXT NOT NULL, revision INTEGER NOT NULL, payload BLOB NOT NULL)"
    ),
    "CREATE INDEX IF NOT EXISTS message_kind ON message (kind)",  # SQLite appends the primary key, the sequence
)

OutboxKind = Literal["report", "audit"]


class Outbox:
    """A bounded, durable queue of messages. Thread-safe, but inference must not call it, because it writes to the disk.

    If the disk is not usable (read-only, full, damaged), the outbox continues in memory and logs one warning.

    Args:
        folder: state folder; it is created if it does not exist.
        max_bytes: maximum size of the payloads of all messages together.

    Attributes:
        start: random name of this start of the agent; it identifies a message together with the sequence number.
        in_memory: True if the disk is not used.

    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._path = folder / FILE
        self._lock = threading.Lock()
        self.in_memory = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection, self._dropped = self._open_or_replace()
        except (OSError, sqlite3.Error) as error:
            self._warn_in_memory(error)
            self._connection, self._dropped = _open(":memory:")
        self.start: Final = secrets.token_hex(8)
        (self._sequence,) = self._connection.execute("SELECT COALESCE(MAX(sequence), 0) FROM message").fetchone()
        self._stored = _measure(self._connection)

    @property
    def dropped(self) -> int:
        """Number of messages dropped because the outbox was full, since the database was created."""
        return self._dropped

    @property
    def count(self) -> int:
        """Number of unacknowledged messages; does not read the disk."""
        return self._stored.messages

    def add(self, message: Report | Audit) -> None:
        """Store a message; `start`, `sequence` and a report's `losses` are set here.

        A report replaces older reports of the same (start, revision). When the outbox is full, the oldest audits are
        dropped, then the oldest reports. Raises MessageError for a message that is larger than the wire allows, or
        than the outbox.
        """
        with self._lock:
            try:
                self._add(message)
            except sqlite3.Error as error:
                self._continue_in_memory(error)
                self._add(message)

    def acknowledge(self, ack: Ack) -> int:
        """Delete the messages that the calibrator has stored; return how many of them were in the outbox."""
        with self._lock:
            try:
                return self._delete_all(ack)
            except sqlite3.Error as error:
                self._continue_in_memory(error)
                return self._delete_all(ack)

    def pending(self, kind: OutboxKind, *, after: int = 0, limit: int) -> list[int]:
        """Return the sequence numbers above `after` of at most `limit` unacknowledged messages, ascending."""
        query = "SELECT sequence FROM message WHERE kind = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        return [sequence for (sequence,) in self._read(query, (kind, after, limit))]

    def holds(self, sequence: int) -> bool:
        """Return True if the message is stored: neither acknowledged, dropped nor replaced."""
        return bool(self._read("SELECT 1 FROM message WHERE sequence = ?", (sequence,)))

    def payload(self, sequence: int) -> bytes | None:
        """Return the JSON of a message, or None if it is not stored any more."""
        rows = self._read("SELECT payload FROM message WHERE sequence = ?", (sequence,))
        return bytes(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the database."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _open_or_replace(self) -> tuple[sqlite3.Connection, int]:
        make_private_database(self._path)
        try:
            return _open(str(self._path))
        except sqlite3.OperationalError:  # disk full, no permission, in use: the content is not damaged
            raise
        except sqlite3.DatabaseError as error:
            aside = self._path.with_suffix(".broken")
            _log.warning(
                "outbox '%s' is damaged (%s); renaming it to '%s' and creating a new one", self._path, error, aside.name
            )
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            make_private_database(self._path)
            return _open(str(self._path))

    def _add(self, message: Report | Audit) -> None:
        kind: OutboxKind = "report" if isinstance(message, Report) else "audit"
        sequence, dropped = self._sequence + 1, self._dropped
        message = msgspec.structs.replace(message, start=self.start, sequence=sequence)
        if isinstance(message, Report):
            message = msgspec.structs.replace(message, losses=Losses(full=dropped))
        payload = encode(message)
        if len(payload) > self._max_bytes:
            raise MessageError(
                f"{kind} of {len(payload)} bytes is larger than outbox_max_bytes ({self._max_bytes}); increase it"
            )
        key = (self.start, message.revision)
        stored = self._stored.plus(len(payload))
        with self._connection as database:
            if kind == "report":
                query = "SELECT sequence FROM message WHERE kind = 'report' AND start = ? AND revision = ?"
                for (older,) in database.execute(query, key).fetchall():
                    stored = stored.minus(_delete(database, older))
            database.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?)", (sequence, kind, *key, payload))
            while stored.size > self._max_bytes:
                query = "SELECT sequence FROM message WHERE sequence != ? ORDER BY kind, sequence LIMIT 1"
                (oldest,) = database.execute(query, (sequence,)).fetchone()
                stored, dropped = stored.minus(_delete(database, oldest)), dropped + 1
            if dropped != self._dropped:
                database.execute("UPDATE outbox SET dropped = ?", (dropped,))
        self._sequence, self._dropped, self._stored = sequence, dropped, stored

    def _delete_all(self, ack: Ack) -> int:
        stored = self._stored
        with self._connection as database:
            for sequence in ack.sequences:
                if size := _delete(database, sequence, ack.start):
                    stored = stored.minus(size)
        deleted, self._stored = self._stored.messages - stored.messages, stored
        return deleted

    def _read(self, query: str, parameters: tuple[int | str, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(query, parameters).fetchall()
            except sqlite3.Error as error:
                self._continue_in_memory(error)
                return self._connection.execute(query, parameters).fetchall()

    def _continue_in_memory(self, error: sqlite3.Error) -> None:
        """Switch to a database in memory with the same start; copy the messages that are readable.

        Raises the error if the outbox is in memory already.
        """
        if self.in_memory:
            raise error
        self._warn_in_memory(error)
        memory = _connect(":memory:")
        with contextlib.suppress(sqlite3.Error), memory:
            memory.executemany(
                "INSERT INTO message VALUES (?, ?, ?, ?, ?)", self._connection.execute("SELECT * FROM message")
            )
        with memory:
            memory.execute("INSERT INTO outbox VALUES (?)", (self._dropped,))
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._connection, self._stored = memory, _measure(memory)

    def _warn_in_memory(self, error: Exception) -> None:
        self.in_memory = True
        _log.warning(
            "outbox '%s' is not usable (%s); messages are kept in memory until the next start", self._path, error
        )


class _StoredSize(NamedTuple):
    """Number and total size of the stored messages, updated with every change."""

    messages: int
    size: int
    """Bytes of the payloads."""

    def plus(self, size: int) -> "_StoredSize":
        return _StoredSize(self.messages + 1, self.size + size)

    def minus(self, size: int) -> "_StoredSize":
        return _StoredSize(self.messages - 1, self.size - size)


def _open(name: str) -> tuple[sqlite3.Connection, int]:
    """Open a database exclusively and check it; return it with its count of dropped messages. Raises sqlite3.Error."""
    connection = _connect(name)
    try:
        result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if result != "ok":
            raise sqlite3.DatabaseError(result)
        with connection:
            if connection.execute("SELECT 1 FROM outbox").fetchone() is None:
                connection.execute("INSERT INTO outbox VALUES (0)")
        (dropped,) = connection.execute("SELECT dropped FROM outbox").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection, int(dropped)


def _connect(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=0, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # a second agent would use the same sequence numbers
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        for statement in _SCHEMA:
            connection.execute(statement)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _measure(connection: sqlite3.Connection) -> _StoredSize:
    return _StoredSize(
        *connection.execute("SELECT COUNT(*), COALESCE(SUM(LENGTH(payload)), 0) FROM message").fetchone()
    )


def _delete(database: sqlite3.Connection, sequence: int, start: str | None = None) -> int:
    """Delete a message and return its size in bytes; 0 if it is not stored."""
    row = database.execute("SELECT LENGTH(payload), start FROM message WHERE sequence = ?", (sequence,)).fetchone()
    if row is None or start not in {None, row[1]}:
        return 0
    database.execute("DELETE FROM message WHERE sequence = ?", (sequence,))
    return int(row[0])

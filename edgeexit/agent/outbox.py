"""What waits for the calibrator: reports and audits in SQLite until its database is known to hold them.

A PUBACK says that a broker has a message, not that anybody kept it; only `down/ack` does.
"""

import contextlib
import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from edgeexit.errors import MessageError
from edgeexit.wire import Ack, Audit, Report, encode

_log = logging.getLogger(__name__)

FILE: Final = "outbox.db"

_SEQUENCES_A_BOOT: Final = 2**32
"""A boot numbers its messages from boot * 2**32: no sequence is ever used twice, even where the last ones were lost."""

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS outbox (identity TEXT NOT NULL, boot INTEGER NOT NULL, dropped INTEGER NOT NULL)",
    (
        "CREATE TABLE IF NOT EXISTS message (sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, "
        "boot INTEGER NOT NULL, revision INTEGER NOT NULL, payload BLOB NOT NULL)"
    ),
    "CREATE INDEX IF NOT EXISTS message_kind ON message (kind)",  # by kind, then by sequence
)

Kind = Literal["report", "audit"]


class Outbox:
    """A bounded, durable queue of messages; may be called from several threads, but never by inference.

    Where the disk cannot be used — read-only, full, broken — it goes on in memory and says so once.

    Attributes:
        identity: random name made with the database; goes with every sequence number.
        boot: number of this start, counted in the database.

    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._path = folder / FILE
        self._lock = threading.Lock()
        self.in_memory = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection, begun = self._open_or_replace()
        except (OSError, sqlite3.Error) as error:
            self._say_in_memory(error)
            self._connection, begun = _open(":memory:")
        self.identity, self.boot, self._dropped = begun
        self._sequence = self.boot * _SEQUENCES_A_BOOT
        self._held = _measure(self._connection)

    @property
    def dropped(self) -> int:
        """Messages dropped for want of room since the database was made."""
        return self._dropped

    @property
    def count(self) -> int:
        """Number of messages that are not acknowledged; asking for it touches no disk."""
        return self._held.messages

    def add(self, message: Report | Audit) -> None:
        """Keep a message, numbered: `outbox`, `sequence` and `dropped` are filled in here.

        A report replaces the older ones of its (boot, revision). Past the bound the oldest audits are dropped, then
        the oldest reports. Raises MessageError for a message larger than the wire takes.
        """
        with self._lock:
            try:
                self._add(message)
            except sqlite3.Error as error:
                self._go_on_in_memory(error)
                self._add(message)

    def acknowledge(self, ack: Ack) -> int:
        """Forget the messages that the calibrator holds; return how many those were."""
        if ack.outbox != self.identity:
            return 0
        with self._lock:
            try:
                return self._forget(ack.sequences)
            except sqlite3.Error as error:
                self._go_on_in_memory(error)
                return self._forget(ack.sequences)

    def waiting(self, kind: Kind, *, after: int = 0, limit: int) -> list[int]:
        """Return the sequences of at most `limit` messages that are not acknowledged, upwards from `after`."""
        query = "SELECT sequence FROM message WHERE kind = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        return [sequence for (sequence,) in self._read(query, (kind, after, limit))]

    def holds(self, sequence: int) -> bool:
        """Say whether a message is there: neither acknowledged nor dropped nor replaced."""
        return bool(self._read("SELECT 1 FROM message WHERE sequence = ?", (sequence,)))

    def payload(self, sequence: int) -> bytes | None:
        """Return a message's bytes, or None where it is gone."""
        rows = self._read("SELECT payload FROM message WHERE sequence = ?", (sequence,))
        return bytes(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the database."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _open_or_replace(self) -> "tuple[sqlite3.Connection, _Begun]":
        try:
            return _open(str(self._path))
        except sqlite3.OperationalError:  # no room, no permission, in use: nothing is wrong with what it holds
            raise
        except sqlite3.DatabaseError as error:
            aside = self._path.with_suffix(".broken")
            _log.warning("outbox '%s' is broken (%s); it is kept as '%s' and begun anew", self._path, error, aside.name)
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return _open(str(self._path))

    def _add(self, message: Report | Audit) -> None:
        kind: Kind = "report" if isinstance(message, Report) else "audit"
        sequence, dropped = self._sequence + 1, self._dropped
        message = msgspec.structs.replace(message, outbox=self.identity, sequence=sequence)
        if isinstance(message, Report):
            message = msgspec.structs.replace(message, dropped=dropped)
        payload = encode(message)
        if len(payload) > self._max_bytes:
            raise MessageError(f"{kind} of {len(payload)} bytes is larger than the outbox of {self._max_bytes}")
        key = (message.boot, message.revision)
        held = self._held.plus(len(payload))
        with self._connection as database:
            if kind == "report":
                query = "SELECT sequence FROM message WHERE kind = 'report' AND boot = ? AND revision = ?"
                for (older,) in database.execute(query, key).fetchall():
                    held = held.minus(_delete(database, older))
            database.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?)", (sequence, kind, *key, payload))
            while held.size > self._max_bytes:
                query = "SELECT sequence FROM message WHERE sequence != ? ORDER BY kind, sequence LIMIT 1"
                (oldest,) = database.execute(query, (sequence,)).fetchone()
                held, dropped = held.minus(_delete(database, oldest)), dropped + 1
            if dropped != self._dropped:
                database.execute("UPDATE outbox SET dropped = ?", (dropped,))
        self._sequence, self._dropped, self._held = sequence, dropped, held

    def _forget(self, sequences: Iterable[int]) -> int:
        held = self._held
        with self._connection as database:
            for sequence in sequences:
                if size := _delete(database, sequence):
                    held = held.minus(size)
        forgotten, self._held = self._held.messages - held.messages, held
        return forgotten

    def _read(self, query: str, parameters: tuple[int | str, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(query, parameters).fetchall()
            except sqlite3.Error as error:
                self._go_on_in_memory(error)
                return self._connection.execute(query, parameters).fetchall()

    def _go_on_in_memory(self, error: sqlite3.Error) -> None:
        """Change over under the same identity and boot; what is stored comes along where it can be read.

        Once changed over, an error has no further way out and is raised.
        """
        if self.in_memory:
            raise error
        self._say_in_memory(error)
        memory = _connect(":memory:")
        with contextlib.suppress(sqlite3.Error), memory:
            memory.executemany(
                "INSERT INTO message VALUES (?, ?, ?, ?, ?)", self._connection.execute("SELECT * FROM message")
            )
        with memory:
            memory.execute("INSERT INTO outbox VALUES (?, ?, ?)", (self.identity, self.boot, self._dropped))
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._connection, self._held = memory, _measure(memory)

    def _say_in_memory(self, error: Exception) -> None:
        self.in_memory = True
        _log.warning(
            "outbox '%s' cannot be used (%s); messages are kept in memory until the next start", self._path, error
        )


class _StoredSize(NamedTuple):
    """What is in the database, kept as a running sum."""

    messages: int
    size: int
    """Bytes of the payloads."""

    def plus(self, size: int) -> "_StoredSize":
        return _StoredSize(self.messages + 1, self.size + size)

    def minus(self, size: int) -> "_StoredSize":
        return _StoredSize(self.messages - 1, self.size - size)


class _Begun(NamedTuple):
    """What a start finds in the database, itself counted."""

    identity: str
    boot: int
    dropped: int


def _open(name: str) -> tuple[sqlite3.Connection, _Begun]:
    """Open a database for this process alone, check it, and count the start, durably. Raises sqlite3.Error."""
    connection = _connect(name)
    try:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        with connection:
            if connection.execute("SELECT 1 FROM outbox").fetchone() is None:
                connection.execute("INSERT INTO outbox VALUES (?, 0, 0)", (secrets.token_hex(8),))
            connection.execute("UPDATE outbox SET boot = boot + 1")
            begun = _Begun(*connection.execute("SELECT identity, boot, dropped FROM outbox").fetchone())
    except sqlite3.Error:
        connection.close()
        raise
    return connection, begun


def _connect(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=0, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # a second agent must not number messages, too
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


def _delete(database: sqlite3.Connection, sequence: int) -> int:
    """Delete a message and return its bytes; 0 where it is not there."""
    found = database.execute("SELECT LENGTH(payload) FROM message WHERE sequence = ?", (sequence,)).fetchone()
    if found is None:
        return 0
    database.execute("DELETE FROM message WHERE sequence = ?", (sequence,))
    return int(found[0])

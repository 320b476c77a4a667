"""Opens the database, migrates its schema, and provides sessions for reading and writing.

If an SQLite file is removed or replaced, SQLite continues to write to the old file, and everything it commits is lost.
So each transaction checks before its start and after its commit that the path still names the file that was opened.
A missing file is not created again while the database is open, because an `rm calibrator.sqlite*` that is still running
could delete the new write-ahead log.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event, exc
from sqlalchemy.orm import Session

from edgeexit_calibration.store.database_url import DatabaseKind, kind_of, parse_url, secrets_of, shown_url
from edgeexit_calibration.store.errors import DatabaseError, error_text, is_outage
from edgeexit_calibration.store.postgresql_engine import postgresql_engine
from edgeexit_calibration.store.schema import found_revision, migrate, newest_revision
from edgeexit_calibration.store.sqlite_engine import BEGIN_OPTION, sqlite_engine

__all__ = ["Database", "DatabaseError", "DatabaseKind", "open_database"]

_READING: Final[dict[DatabaseKind, dict[str, Any]]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
_WRITING: Final[dict[DatabaseKind, dict[str, Any]]] = {
    "sqlite": {BEGIN_OPTION: "BEGIN IMMEDIATE"},
    "postgresql": {"isolation_level": "READ COMMITTED"},
}
"""Execution options of the connections. On PostgreSQL, who writes locks the rows that it depends on."""


class Database:
    """An open database.

    Attributes:
        name: the URL without passwords, for messages.
        kind: `sqlite` or `postgresql`.
        engine: the SQLAlchemy engine.

    """

    def __init__(self, engine: Engine, *, fence: Callable[[Connection], None] | None = None) -> None:
        self.engine = engine
        self.name = shown_url(engine.url)
        self.kind: DatabaseKind = kind_of(engine.url)
        self._secrets = secrets_of(engine.url)
        self._fence = fence
        self._file: _OpenFile | None = None
        if self.kind == "sqlite":
            self._file = _OpenFile(engine)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.kind == "sqlite"

    def fenced(self, fence: Callable[[Connection], None]) -> "Database":
        """Return the same database for a process that may lose the right to write to it.

        `writing()` calls `fence` inside each transaction; an exception of it rolls back, and is raised unchanged.
        """
        fenced = Database.__new__(Database)
        fenced.__dict__.update(self.__dict__, _fence=fence)
        return fenced

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that reads one consistent state of the database. Raises DatabaseError."""
        engine = self.engine.execution_options(**_READING[self.kind])
        with self._translate_errors():
            self._check_file()  # before SQLite creates an empty file in place of a missing one
            with Session(engine) as session:
                yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session that commits when the block ends, and rolls back if the block raises.

        On SQLite it holds the write lock from the start, so the data it reads cannot change before it writes. On
        PostgreSQL only the rows are locked that it writes, or reads with `with_for_update()`. Raises DatabaseError;
        then the changes are lost: they were rolled back, or the file was removed before the commit. If the connection
        is lost during a commit of PostgreSQL, the changes may have been made, so what is repeated must not count twice.
        """
        engine = self.engine.execution_options(**_WRITING[self.kind])
        with self._translate_errors():
            self._check_file()
            with Session(engine) as session, session.begin():
                connection = session.connection()  # acquires the lock now, not at the first statement
                if self._fence is not None:
                    self._fence(connection)
                yield session
            self._check_file()

    @contextlib.contextmanager
    def outside_transactions(self) -> Iterator[Connection]:
        """Yield a connection on which each statement is done at once, for VACUUM. Raises DatabaseError."""
        options = {BEGIN_OPTION: None} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        with self._translate_errors():
            self._check_file()
            with self.engine.connect().execution_options(**options) as connection:
                yield connection

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def _check_file(self) -> None:
        if self._file is not None and self._file.is_replaced():
            self.engine.dispose()
            raise DatabaseError(
                f"database '{self.name}': its file was removed or replaced while in use; restore the file, or restart "
                f"the calibrator to use the new one"
            )

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except exc.SQLAlchemyError as error:
            if not is_outage(error):
                raise
            text = error_text(error, secrets=self._secrets)
            raise DatabaseError(f"database '{self.name}': {text}") from error


class _OpenFile:
    """The file of SQLite that the first connection opened."""

    def __init__(self, engine: Engine) -> None:
        self._file: tuple[str, tuple[int, int]] | None = None
        event.listen(engine, "connect", self._remember)

    def is_replaced(self) -> bool:
        """Return True if the path names another file now, or none."""
        return self._file is not None and _identity(self._file[0]) != self._file[1]

    def _remember(self, connection: Any, _record: object) -> None:
        if self._file is None:
            _, _, path = connection.execute("PRAGMA database_list").fetchone()
            identity = _identity(path)
            self._file = None if identity is None else (path, identity)


def open_database(url: str, *, create: bool = True, migrates: bool = True, busy_timeout_s: float = 10.0) -> Database:
    """Open a database by URL, or by the path of an SQLite file, and migrate it to this version's schema.

    Args:
        url: e.g. `sqlite:///calibrator.sqlite`, `calibrator.sqlite` or `postgresql://user@host/database`.
        create: True: create a missing SQLite file and missing tables. False: they are an error.
        migrates: False: leave an older schema as it is; only `schema` and backups can use it.
        busy_timeout_s: maximum time to wait for a lock that another process holds.

    Raises DatabaseError for an invalid URL, a missing driver, a missing, locked or damaged file, or a newer schema.

    """
    parsed = parse_url(url)
    database = Database(_engine(parsed, create=create, busy_timeout_s=busy_timeout_s))
    try:
        _use_newest_schema(database, create=create, migrates=migrates)
    except BaseException:
        database.close()
        raise
    return database


def _engine(url: URL, *, create: bool, busy_timeout_s: float) -> Engine:
    if kind_of(url) == "sqlite":
        return sqlite_engine(url, create=create, busy_timeout_s=busy_timeout_s)
    return postgresql_engine(url, busy_timeout_s=busy_timeout_s)


def _use_newest_schema(database: Database, *, create: bool, migrates: bool) -> None:
    """Run the missing migrations in one transaction. Raises DatabaseError for an unknown schema."""
    with database.reading() as session:
        found = found_revision(session.connection())
    if found is None and not create:
        raise DatabaseError(
            f"'{database.name}' is empty or not a calibrator database; `edgeexit calibrator register` creates one"
        )
    if not migrates or found == newest_revision():
        return
    with database.writing() as session:
        migrate(session.connection(), name=database.name)


def _identity(path: str) -> tuple[int, int] | None:
    """Return the device and inode numbers of a file, or None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116 - SQLite returns the path as a string, which is empty for a database in memory
    except OSError:
        return None
    return status.st_dev, status.st_ino

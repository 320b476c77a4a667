"""Opens the database, migrates its schema, and provides sessions for reading and writing.

If an SQLite file is removed or replaced, SQLite continues to write to the old file, and everything it commits is lost.
So each transaction checks before its start and after its commit that the path still names the file that was opened.
A missing file is not created again while the database is open, because an `rm calibrator.sqlite*` that is still running
could delete the new write-ahead log.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.orm import Session

from edgeexit.errors import EdgeExitError
from edgeexit.private_files import make_private_database

_log = logging.getLogger(__name__)

_BEGIN: Final = "edgeexit_begin"
_SQLITE: Final = "sqlite"
_PROGRAMMING_ERRORS = (exc.IntegrityError, exc.DataError, exc.ProgrammingError, exc.NotSupportedError)


class DatabaseError(EdgeExitError):
    """The database cannot be opened, read or written: e.g. an invalid URL, or a locked, damaged or missing file."""


class Database:
    """An open database.

    Attributes:
        name: the URL without passwords, for messages.
        engine: the SQLAlchemy engine.

    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = _without_secrets(engine.url)
        self._file: tuple[str, tuple[int, int]] | None = None
        if engine.url.get_backend_name() == _SQLITE:
            event.listen(engine, "connect", self._remember_file)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that reads one consistent state of the database. Raises DatabaseError."""
        with self._translate_errors():
            self._check_file()  # before SQLite creates an empty file in place of a missing one
            with Session(self.engine) as session:
                yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session that commits when the block ends, and rolls back if the block raises.

        It holds the write lock from the start, so the data it reads cannot change before it writes. Raises
        DatabaseError; then the changes are lost: they were rolled back, or the file was removed before the commit.
        """
        engine = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        with self._translate_errors():
            self._check_file()
            with Session(engine) as session, session.begin():
                session.connection()  # acquires the lock now, not at the first statement
                yield session
            self._check_file()

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def _remember_file(self, connection: Any, _record: object) -> None:
        """Remember the file of the first connection."""
        if self._file is None:
            _, _, path = connection.execute("PRAGMA database_list").fetchone()
            identity = _identity(path)
            self._file = None if identity is None else (path, identity)

    def _check_file(self) -> None:
        if self._file is None:
            return
        path, identity = self._file
        if _identity(path) != identity:
            self.engine.dispose()
            raise DatabaseError(
                f"database '{self.name}': its file was removed or replaced while in use; restore the file, or restart "
                f"the calibrator to use the new one"
            )

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            if isinstance(error, _PROGRAMMING_ERRORS):
                raise
            raise DatabaseError(f"database '{self.name}': {error.orig}; {_advice(str(error.orig))}") from error


def open_database(url: str, *, create: bool = True, busy_timeout_s: float = 10.0) -> Database:
    """Open a database by SQLAlchemy URL, or by the path of an SQLite file, and migrate it to this version's schema.

    Args:
        url: e.g. `sqlite:///calibrator.sqlite`, or `calibrator.sqlite`.
        create: True: create a missing SQLite file and missing tables. False: they are an error.
        busy_timeout_s: maximum time to wait for another process that holds the write lock (SQLite only).

    Raises DatabaseError for an invalid URL, a missing driver, a missing, locked or damaged file, or a newer schema.

    """
    parsed = _parse(url)
    if parsed.get_backend_name() == _SQLITE and not create and not _sqlite_file(parsed).exists():
        raise DatabaseError(f"database '{parsed.database}' does not exist; `edgeexit calibrator register` creates it")
    options: dict[str, Any] = {}
    if parsed.get_backend_name() == _SQLITE:
        options["connect_args"] = {"timeout": busy_timeout_s}
    try:
        engine = create_engine(parsed, **options)
    except exc.NoSuchModuleError as error:
        kind = parsed.drivername
        raise DatabaseError(
            f"database '{_without_secrets(parsed)}': unknown database type '{kind}'; use e.g. sqlite or postgresql"
        ) from error
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"database '{_without_secrets(parsed)}' needs the Python package '{error.name}'; install it"
        ) from error
    except exc.ArgumentError as error:
        raise _invalid_url(_without_secrets(parsed)) from error
    if parsed.get_backend_name() == _SQLITE:
        _make_private(parsed, create=create)
        _prepare_sqlite(engine, create=create)
    database = Database(engine)
    try:
        _migrate(database, create=create)
    except BaseException:
        database.close()
        raise
    return database


def _make_private(url: URL, *, create: bool) -> None:
    """Let only the owner read an SQLite file. Raises DatabaseError if the file cannot be created."""
    file = _sqlite_file(url)
    try:
        make_private_database(file, create=create and "mode" not in url.query)  # ?mode=ro may forbid to create it
    except OSError as error:
        advice = _advice("unable to open")
        raise DatabaseError(f"database '{file}' cannot be created: {error.strerror}; {advice}") from error


def _sqlite_file(url: URL) -> Path:
    name = str(url.database)
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)


def migration_config(connection: Connection) -> Config:
    """Return the Alembic configuration for the migrations of this package on `connection`."""
    config = Config()
    config.set_main_option("script_location", "edgeexit_calibration:store/migrations")
    config.attributes["connection"] = connection
    return config


def _parse(url: str) -> URL:
    if "://" not in url:
        return URL.create(_SQLITE, database=url)
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        scheme, _, rest = url.partition("://")  # an invalid URL may still contain a password
        raise _invalid_url(f"{scheme}://***@{rest.rpartition('@')[2]}" if "@" in rest else url) from error
    if parsed.get_backend_name() == _SQLITE and parsed.database in {None, "", ":memory:"}:
        raise DatabaseError(
            f"database '{_without_secrets(parsed)}' has no file name; write e.g. sqlite:///calibrator.sqlite"
        )
    return parsed


def _invalid_url(shown: str) -> DatabaseError:
    return DatabaseError(f"database '{shown}' is not a valid URL; write e.g. sqlite:///calibrator.sqlite")


def _without_secrets(url: URL) -> str:
    """Return a URL for messages: without the password and without options, which may contain a password too."""
    host = url.host and url.host.rpartition("@")[2]  # the part before an unescaped @ of a password
    return url.set(query={}, host=host).render_as_string(hide_password=True)


def _identity(path: str) -> tuple[int, int] | None:
    """Return the device and inode numbers of a file, or None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116 - SQLite returns the path as a string, which is empty for a database in memory
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _prepare_sqlite(engine: Engine, *, create: bool) -> None:
    """Start transactions explicitly, as SQLAlchemy's documentation of pysqlite recommends, and make commits durable.

    The journal mode is stored in the file, so it is set only if the file may be created.
    """
    pragmas = ["synchronous=FULL", "foreign_keys=ON", *(["journal_mode=WAL"] if create else [])]

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not start transactions
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _migrate(database: Database, *, create: bool) -> None:
    """Run the missing migrations in one transaction. Raises DatabaseError for an unknown schema."""
    with database.reading() as session:
        connection = session.connection()
        scripts = ScriptDirectory.from_config(migration_config(connection))
        found = _schema(connection)
        if found == scripts.get_current_head():
            return
    if found is None and not create:
        raise DatabaseError(
            f"'{database.name}' is empty or not a calibrator database; `edgeexit calibrator register` creates one"
        )
    with database.writing() as session:
        connection = session.connection()
        found = _schema(connection)  # read again: another process may have migrated it meanwhile
        if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
            raise DatabaseError(
                f"database '{database.name}' has schema '{found}', which this version does not know; "
                f"upgrade edgeexit to the version that created it, or a newer one"
            )
        _log.info("migrating database '%s' to schema %s", database.name, scripts.get_current_head())
        command.upgrade(migration_config(connection), "head")


def _schema(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _advice(reason: str) -> str:
    if "locked" in reason:
        return "another process is writing to it; try again, or stop that process"
    if "not a database" in reason or "malformed" in reason:
        return "the file is damaged or not an SQLite file; restore it, or choose another one"
    if "unable to open" in reason or "readonly" in reason:
        return "does its folder exist, and may you write to it?"
    return "is the database reachable, and is there space on the disk?"

"""Open the database, bring its schema up to date, and give sessions to read or to write.

SQLite goes on writing to a file that was removed or replaced under its name, and what it commits is lost. So the file
under the name is compared with the one that was opened, before every transaction and again behind every commit. It is
never made anew while in use: `rm calibrator.sqlite*` could take the new one's log away, unnoticed.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.orm import Session

from edgeexit.errors import EdgeExitError

_log = logging.getLogger(__name__)

_BEGIN: Final = "edgeexit_begin"
_SQLITE: Final = "sqlite"
_PROGRAMMING_FAULTS = (exc.IntegrityError, exc.DataError, exc.ProgrammingError, exc.NotSupportedError)


class DatabaseError(EdgeExitError):
    """The database cannot be opened, read or written now: wrong URL, locked, full, damaged, gone or too new."""


class Database:
    """An open database.

    Attributes:
        name: the URL without its passwords, for people.
        engine: of SQLAlchemy.

    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = _shown(engine.url)
        self._file: tuple[str, tuple[int, int]] | None = None
        if engine.url.get_backend_name() == _SQLITE:
            event.listen(engine, "connect", self._remember_file)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a session that sees one state of the database. Raises DatabaseError."""
        with self._errors_named():
            self._check_file()  # before SQLite would make an empty file in place of one that is gone
            with Session(self.engine) as session:
                yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """Give a session that commits when the block ends and undoes everything when it raises.

        It holds the write lock from its beginning, so what it reads is still true when it writes. Raises
        DatabaseError; then nothing was written, or to a file that is gone.
        """
        engine = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        with self._errors_named():
            self._check_file()
            with Session(engine) as session, session.begin():
                session.connection()  # takes the lock now, not at the first statement
                yield session
            self._check_file()

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def _remember_file(self, connection: Any, _record: object) -> None:
        """Remember the file of the first connection; later ones are made only while it is there."""
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
                f"database '{self.name}': its file was removed or replaced while in use; put it back, or restart "
                f"what uses it, to go on with what is there then"
            )

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            if isinstance(error, _PROGRAMMING_FAULTS):
                raise
            raise DatabaseError(f"database '{self.name}': {error.orig}; {_advice(str(error.orig))}") from error


def open_database(url: str, *, create: bool = True, busy_timeout_s: float = 10.0) -> Database:
    """Open a database by SQLAlchemy URL, or by the path of an SQLite file, and migrate it to this version's schema.

    Args:
        url: e.g. `sqlite:///calibrator.sqlite`, or just `calibrator.sqlite`.
        create: make an SQLite file that is not there, and the tables where there are none; else that is an error, and
            nothing is written.
        busy_timeout_s: how long to wait for another process's write lock.

    Raises DatabaseError: not a URL, no driver, not there, locked, damaged, or written by a newer version.

    """
    parsed = _parse(url)
    if parsed.get_backend_name() == _SQLITE and not create and not Path(str(parsed.database)).exists():
        raise DatabaseError(f"there is no database '{parsed.database}'; `edgeexit calibrator register` makes one")
    options: dict[str, Any] = {}
    if parsed.get_backend_name() == _SQLITE:
        options["connect_args"] = {"timeout": busy_timeout_s}
    try:
        engine = create_engine(parsed, **options)
    except exc.NoSuchModuleError as error:
        kind = parsed.drivername
        raise DatabaseError(f"database '{_shown(parsed)}': '{kind}' is not a kind of database known here") from error
    except ModuleNotFoundError as error:
        raise DatabaseError(f"database '{_shown(parsed)}' needs the package '{error.name}'; install it") from error
    except exc.ArgumentError as error:
        raise _no_url(_shown(parsed)) from error
    if parsed.get_backend_name() == _SQLITE:
        _prepare_sqlite(engine, create=create)
    database = Database(engine)
    try:
        _migrate(database, create=create)
    except BaseException:
        database.close()
        raise
    return database


def migration_config(connection: Connection) -> Config:
    """Return Alembic's configuration for this package's migrations over `connection`."""
    config = Config()
    config.set_main_option("script_location", "edgeexit_calibration:migrations")
    config.attributes["connection"] = connection
    return config


def _parse(url: str) -> URL:
    if "://" not in url:
        return URL.create(_SQLITE, database=url)
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        scheme, _, rest = url.partition("://")  # what cannot be read may still hold a password
        raise _no_url(f"{scheme}://***@{rest.rpartition('@')[2]}" if "@" in rest else url) from error
    if parsed.get_backend_name() == _SQLITE and parsed.database in {None, "", ":memory:"}:
        raise DatabaseError(f"database '{_shown(parsed)}' names no file; write e.g. sqlite:///calibrator.sqlite")
    return parsed


def _no_url(shown: str) -> DatabaseError:
    return DatabaseError(f"database '{shown}' is not a URL; write e.g. sqlite:///calibrator.sqlite")


def _shown(url: URL) -> str:
    """Return a URL for people: without the password, and without its options, where drivers take passwords too."""
    host = url.host and url.host.rpartition("@")[2]  # a password with an @ that was not escaped reaches into the host
    return url.set(query={}, host=host).render_as_string(hide_password=True)


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from every other under its name, or None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - SQLite's own words for it are a string, empty where it has no file
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _prepare_sqlite(engine: Engine, *, create: bool) -> None:
    """Begin transactions ourselves, as SQLAlchemy's documentation of pysqlite says, and make commits durable.

    The mode of the journal stands in the file, so only who may make the file sets it.
    """
    pragmas = ["synchronous=FULL", "foreign_keys=ON", *(["journal_mode=WAL"] if create else [])]

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _migrate(database: Database, *, create: bool) -> None:
    """Run the migrations that are missing, all in one transaction, and refuse a schema that is not known."""
    with database.reading() as session:
        connection = session.connection()
        scripts = ScriptDirectory.from_config(migration_config(connection))
        found = _schema(connection)
        if found == scripts.get_current_head():
            return
    if found is None and not create:
        raise DatabaseError(
            f"'{database.name}' is empty or no calibrator's database; `edgeexit calibrator register` makes one"
        )
    with database.writing() as session:
        connection = session.connection()
        found = _schema(connection)  # again: another process may have migrated it meanwhile
        if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
            raise DatabaseError(
                f"database '{database.name}' has schema '{found}', which this version does not know; "
                f"upgrade edgeexit to the version that wrote it, or newer"
            )
        _log.info("bringing database '%s' to schema %s", database.name, scripts.get_current_head())
        command.upgrade(migration_config(connection), "head")


def _schema(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _advice(reason: str) -> str:
    if "locked" in reason:
        return "another process is writing to it; try again, or stop that one"
    if "not a database" in reason or "malformed" in reason:
        return "it is damaged or no SQLite file; restore it, or give another"
    if "unable to open" in reason or "readonly" in reason:
        return "is its folder there, and may you write to it?"
    return "is it reachable, and is there space on the disk?"

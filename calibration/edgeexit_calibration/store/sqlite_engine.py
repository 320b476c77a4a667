"""Creates the SQLAlchemy engine of an SQLite file, which only its owner may read."""

from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from edgeexit.private_files import make_private_database
from edgeexit_calibration.store.database_url import sqlite_file
from edgeexit_calibration.store.errors import DatabaseError, advise

BEGIN_OPTION: Final = "edgeexit_begin"
"""Execution option of a connection: the statement that begins its transactions; None: there are none."""


def sqlite_engine(url: URL, *, create: bool, busy_timeout_s: float) -> Engine:
    """Return an engine for a file, which is created if that is allowed. Raises DatabaseError."""
    if not create and not sqlite_file(url).exists():
        raise DatabaseError(f"database '{url.database}' does not exist; `edgeexit calibrator register` creates it")
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s})
    _make_private(url, create=create)
    _prepare(engine, create=create)
    return engine


def _make_private(url: URL, *, create: bool) -> None:
    """Let only the owner read an SQLite file. Raises DatabaseError if the file cannot be created."""
    file = sqlite_file(url)
    try:
        make_private_database(file, create=create and "mode" not in url.query)  # ?mode=ro may forbid to create it
    except OSError as error:
        advice = advise("unable to open")
        raise DatabaseError(f"database '{file}' cannot be created: {error.strerror}; {advice}") from error


def _prepare(engine: Engine, *, create: bool) -> None:
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
        statement = connection.get_execution_options().get(BEGIN_OPTION, "BEGIN")
        if statement is not None:
            connection.exec_driver_sql(statement)

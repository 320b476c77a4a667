"""Gives the space of deleted rows back to the disk, and updates the statistics that queries are planned with."""

import shutil

import msgspec
from sqlalchemy import text

from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.database_size import file_bytes
from edgeexit_calibration.store.database_url import sqlite_file
from edgeexit_calibration.store.errors import DatabaseError
from edgeexit_calibration.store.postgresql_engine import without_limits


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a database on the disk in bytes."""

    before: int
    after: int


def vacuum_database(database: Database) -> Sizes:
    """Vacuum a database. On SQLite, a running calibrator waits meanwhile. Raises DatabaseError."""
    with database.reading() as session:
        before = file_bytes(session)
    if database.is_sqlite:
        _require_space(database, before)
        with database.outside_transactions() as connection:
            for statement in ("VACUUM", "ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"):
                connection.execute(text(statement))
    else:
        with database.outside_transactions() as connection, without_limits(connection):
            connection.execute(text("VACUUM (ANALYZE)"))
    with database.reading() as session:
        return Sizes(before=before, after=file_bytes(session))


def _require_space(database: Database, size: int) -> None:
    """Raise DatabaseError unless the disk can hold a second copy, in the write-ahead log."""
    folder = sqlite_file(database.engine.url).absolute().parent
    free, needed = shutil.disk_usage(folder).free, 2 * size
    if free < needed:
        raise DatabaseError(
            f"database '{database.name}': vacuum needs {needed / 1e6:.1f} MB, but the disk has {free / 1e6:.1f} MB; "
            "free space first"
        )

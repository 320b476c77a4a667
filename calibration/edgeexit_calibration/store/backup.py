"""Backups of a database of either kind, and their restoration."""

from pathlib import Path

import msgspec
from sqlalchemy import delete, inspect, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.database import Database, open_database
from edgeexit_calibration.store.database_size import file_bytes
from edgeexit_calibration.store.database_url import kind_of, parse_url, sqlite_file
from edgeexit_calibration.store.errors import DatabaseError
from edgeexit_calibration.store.leases import database_time
from edgeexit_calibration.store.postgresql_backup import back_up_postgresql, check_postgresql, restore_postgresql
from edgeexit_calibration.store.process_identity import shown_place
from edgeexit_calibration.store.process_tables import LeaseRow
from edgeexit_calibration.store.schema import require_known
from edgeexit_calibration.store.sqlite_backup import ReportProgress, back_up_sqlite, check_sqlite, restore_sqlite


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A file with everything that a database contained at one time."""

    file: str
    bytes: int
    schema: str
    """Revision of the schema; an older one is migrated when the database is opened."""


class Restoration(msgspec.Struct, frozen=True, kw_only=True):
    """A database that contains what a backup contained."""

    database: str
    schema: str
    kept: str | None
    """File with the replaced database; null if there was none."""


def back_up_database(database: Database, file: Path, *, report: ReportProgress = lambda _pages, _total: None) -> Backup:
    """Write a backup into a new file with mode 0600, while the service may run, and check it.

    Args:
        database: opened with `migrates=False`, it may have an older schema.
        file: must not exist.
        report: is called with the numbers of pages that were copied since the last call, and of all pages.

    Raises DatabaseError, and then leaves no file.

    """
    url = database.engine.url
    with database.reading() as session:
        size = file_bytes(session)
    if database.is_sqlite:
        back_up_sqlite(sqlite_file(url), file, size_bytes=size, report=report)
        schema = check_sqlite(file, shown=file)
    else:
        back_up_postgresql(url, file, size_bytes=size)
        schema = check_postgresql(file, shown=file)
    return Backup(file=str(file), bytes=file.stat().st_size, schema=schema)


def restore_database(backup: Path, url: str) -> Restoration:
    """Replace the content of a database by that of a backup, and keep what it contained.

    Raises DatabaseError if the backup is damaged or of a newer schema, or if a calibrator uses the database.
    """
    parsed = parse_url(url)
    _require_readable(backup)
    if kind_of(parsed) == "sqlite":
        schema = check_sqlite(backup, shown=backup)
        require_known(schema, name=str(backup))
        file = sqlite_file(parsed)
        if file.exists():
            if file.samefile(backup):
                raise DatabaseError(f"'{backup}' is the database itself; choose a backup")
            _require_unused(url)
        kept = restore_sqlite(backup, file)
    else:
        schema = check_postgresql(backup, shown=backup)
        require_known(schema, name=str(backup))
        kept = _keep_postgresql(backup, url)
        restore_postgresql(backup, parsed)
    restored = open_database(url, create=False, migrates=False)
    _forget_leases(restored)
    restored.close()
    return Restoration(database=restored.name, schema=schema, kept=None if kept is None else str(kept))


def _require_readable(backup: Path) -> None:
    try:
        with backup.open("rb"):
            return
    except FileNotFoundError as error:
        raise DatabaseError(f"backup '{backup}' does not exist") from error
    except OSError as error:
        raise DatabaseError(f"backup '{backup}' cannot be read: {error.strerror}") from error


def _require_unused(url: str) -> None:
    """Raise DatabaseError if a calibrator uses a database. A damaged database is not in use."""
    try:
        database = open_database(url, create=False, migrates=False)
    except DatabaseError:
        return
    try:
        users = _users(database)
    except DatabaseError:
        return
    finally:
        database.close()
    if users:
        raise DatabaseError(
            f"a calibrator uses the database '{database.name}' ({users[0]}); stop it, wait 15 s, and try again"
        )


def _forget_leases(database: Database) -> None:
    """Delete the leases of the calibrator that ran at the time of the backup."""
    with database.writing() as session:
        if _has_leases(session):
            session.execute(delete(LeaseRow))


def _has_leases(session: Session) -> bool:
    """Return False for the first schema."""
    return inspect(session.connection()).has_table(LeaseRow.__tablename__)


def _users(database: Database) -> list[str]:
    with database.reading() as session:
        if not _has_leases(session):
            return []
        query = select(LeaseRow.place).where(LeaseRow.expires_at > database_time(session))
        return sorted({shown_place(place) for place in session.scalars(query)})


def _keep_postgresql(backup: Path, url: str) -> Path | None:
    """Write what a database contains now into a file next to the backup; return None if it contains no tables."""
    _require_unused(url)
    try:
        database = open_database(url, create=False, migrates=False)
    except DatabaseError as error:
        if "empty or not a calibrator database" in str(error):
            return None
        raise
    kept = backup.with_name(f"{backup.name}.before-restore")
    try:
        back_up_database(database, kept)
    finally:
        database.close()
    return kept

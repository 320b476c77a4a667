"""Backups of an SQLite database: taken while the service runs, checked, and restored in place of the present file."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from edgeexit.files import fsync_folder
from edgeexit_calibration.store.errors import DatabaseError, advise
from edgeexit_calibration.store.private_copies import new_private_file

_HEADER: Final = b"SQLite format 3\x00"
_PAGES: Final = 2000
"""Pages that are copied between two reports of progress: about 8 MB."""
ReportProgress = Callable[[int, int], None]
"""Is called with the numbers of pages that were copied since the last call, and of all pages."""


def back_up_sqlite(source: Path, file: Path, *, size_bytes: int, report: ReportProgress) -> None:
    """Write a consistent copy of a database that may be in use into a new file, and check it. Raises DatabaseError."""
    with new_private_file(file, needed_bytes=size_bytes) as partial, _translated(file):
        with (
            contextlib.closing(sqlite3.connect(source)) as present,
            contextlib.closing(sqlite3.connect(partial)) as copy,
        ):
            present.isolation_level = None
            present.execute("BEGIN")  # so that the copy need not begin again whenever another process commits
            present.execute("SELECT count(*) FROM sqlite_master").fetchone()
            present.backup(copy, pages=_PAGES, progress=lambda _, left, total: report(min(_PAGES, total - left), total))
            present.execute("ROLLBACK")
            copy.execute("PRAGMA journal_mode=DELETE")  # one file that needs no others
        check_sqlite(partial, shown=file)


def check_sqlite(file: Path, *, shown: Path) -> str:
    """Check the integrity of a backup; return the revision of its schema.

    Raises DatabaseError if it is no backup of a calibrator, or damaged.
    """
    with file.open("rb") as opened:
        if opened.read(len(_HEADER)) != _HEADER:
            raise DatabaseError(f"'{shown}' is no backup of an SQLite database; choose another file")
    with (
        _translated(shown),
        contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as copy,
    ):
        (problem, *_) = [row[0] for row in copy.execute("PRAGMA integrity_check(1)")]
        if problem != "ok":
            raise DatabaseError(f"'{shown}' is damaged: {problem}; choose another backup")
        try:
            (revision,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
        except (sqlite3.OperationalError, TypeError) as error:
            raise DatabaseError(f"'{shown}' is no database of a calibrator; choose another file") from error
    return str(revision)


def restore_sqlite(backup: Path, file: Path) -> Path | None:
    """Replace a database that nobody uses by a copy of a checked backup; return where the old one is kept.

    After a kill, repeat it: the old database is under its new name, or still in its place.
    """
    kept = file.with_name(f"{file.name}.before-restore")
    incoming = file.with_name(f"{file.name}.restoring")
    incoming.unlink(missing_ok=True)  # of a restore that was killed
    if file.exists() and kept.exists():
        raise DatabaseError(f"'{kept}' exists from an earlier restore; remove it, or move it away")
    with _translated(file):
        with new_private_file(incoming, needed_bytes=backup.stat().st_size) as partial:
            shutil.copyfile(backup, partial)
        moved = file.exists()
        for suffix in ("-wal", "-shm", ""):  # the file last: without it, a new database does not read an old log
            old = file.with_name(file.name + suffix)
            if old.exists():
                old.rename(kept.with_name(kept.name + suffix))
        incoming.rename(file)
        fsync_folder(file.parent)
    return kept if moved else None


@contextlib.contextmanager
def _translated(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(f"'{file}': {error}; {advise(str(error))}") from error
    except OSError as error:
        raise DatabaseError(f"'{file}': {error.strerror or error}") from error

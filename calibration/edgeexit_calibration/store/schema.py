"""The schema of the database: which revision it has, and the migrations to that of this version."""

import logging

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from edgeexit_calibration.store.errors import DatabaseError
from edgeexit_calibration.store.postgresql_engine import without_limits

_log = logging.getLogger(__name__)


def migration_config(connection: Connection) -> Config:
    """Return the Alembic configuration for the migrations of this package on `connection`."""
    config = Config()
    config.set_main_option("script_location", "edgeexit_calibration:store/migrations")
    config.attributes["connection"] = connection
    return config


def found_revision(connection: Connection) -> str | None:
    """Return the revision of the schema, or None if the database has no tables of the calibrator."""
    return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """Return the revision of the schema that this version of the package uses."""
    revision = _scripts().get_current_head()
    assert revision is not None  # noqa: S101 - the package contains migrations
    return revision


def require_known(revision: str, *, name: str) -> None:
    """Raise DatabaseError if this version does not know the revision of the schema of a database or backup."""
    if revision not in {script.revision for script in _scripts().walk_revisions()}:
        raise DatabaseError(
            f"database '{name}' has schema '{revision}', which this version does not know; upgrade edgeexit to the "
            "version that created it, or a newer one"
        )


def migrate(connection: Connection, *, name: str) -> None:
    """Run the missing migrations in the transaction of a connection; of several processes, one does it.

    Raises DatabaseError for a schema that this version does not know.
    """
    with without_limits(connection):
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('edgeexit migration', 0))"))
        found, head = found_revision(connection), newest_revision()
        if found == head:
            return  # another process has done it meanwhile
        if found is not None:
            require_known(found, name=name)
        _log.info("migrating database '%s' to schema %s", name, head)
        command.upgrade(migration_config(connection), "head")


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "edgeexit_calibration:store/migrations")
    return ScriptDirectory.from_config(config)

"""Alembic environment: runs the migrations on the connection and in the transaction that `database` opened."""

from typing import Any, Literal

from alembic import context
from edgeexit_calibration.store import process_tables, tables  # noqa: F401 - they define the tables
from edgeexit_calibration.store.table_base import TableBase, UtcDateTime


def _render_item(kind: str, item: Any, _autogenerate: object) -> str | Literal[False]:
    """Render `UtcDateTime` as the database type, so that a migration does not depend on the code of this package."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=TableBase.metadata,
    render_as_batch=True,  # SQLite can change most columns only by copying the table
    render_item=_render_item,
)
with context.begin_transaction():
    context.run_migrations()

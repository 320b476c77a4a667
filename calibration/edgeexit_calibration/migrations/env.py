"""What Alembic runs: migrations over the connection that `database` opened, in its transaction; forward only."""

from typing import Any, Literal

from alembic import context
from edgeexit_calibration.tables import Base, UtcDateTime


def _render_item(kind: str, item: Any, _autogenerate: object) -> str | Literal[False]:
    """Write our own column type as what it is in the database: a migration must not change with our code."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table only by copying it
    render_item=_render_item,
)
with context.begin_transaction():
    context.run_migrations()

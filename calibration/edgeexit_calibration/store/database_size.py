"""Measures how much of the disk the rows of a database need, without the space that deleted rows have left."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

_ROW_OVERHEAD: Final = 32
"""Bytes of PostgreSQL per row, besides its values."""
_LIVE: Final = """
    SELECT coalesce(sum(live.rows * (:overhead + coalesce(widths.bytes, 0)) * (1 + live.index_share)), 0)
    FROM (
        SELECT relname, greatest(reltuples, 0) AS rows,
               pg_indexes_size(oid)::float8 / greatest(pg_relation_size(oid), 8192) AS index_share
        FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
    ) AS live
    LEFT JOIN (
        SELECT tablename, sum(avg_width * (1 - null_frac)) AS bytes
        FROM pg_stats WHERE schemaname = current_schema() GROUP BY tablename
    ) AS widths ON widths.tablename = live.relname
"""


def used_bytes(session: Session) -> int:
    """Return the size of the live rows in bytes: exact on SQLite, on PostgreSQL an estimate of its last ANALYZE."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        pages, free, page_size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page_size)
    estimated = connection.execute(text(_LIVE), {"overhead": _ROW_OVERHEAD}).scalar_one()
    return min(int(estimated), file_bytes(session))


def file_bytes(session: Session) -> int:
    """Return the size of the database on the disk in bytes, free space in it included."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        pages, page_size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size")
        )
        return int(pages * page_size)
    return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())

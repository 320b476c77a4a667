"""Inserts rows that another process may insert at the same time, without an error of a unique key."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import CursorResult
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from edgeexit_calibration.store.table_base import TableBase


def insert_missing(session: Session, table: type[TableBase], values: Mapping[str, Any]) -> bool:
    """Insert a row unless one with a key of it exists; return True if it was inserted.

    On PostgreSQL it waits for a transaction that inserts the same key. Afterwards, a query finds the row.
    """
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    insert = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
    result = session.execute(insert.values(**values).on_conflict_do_nothing())
    return isinstance(result, CursorResult) and result.rowcount == 1

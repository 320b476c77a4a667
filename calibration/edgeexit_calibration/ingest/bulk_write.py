"""Writes many rows with one statement, past the object-relational layer, where a row costs more than in the database.

SQLite executes one prepared statement per row, which is cheap within the process. PostgreSQL gets the columns as arrays
in one statement, because each statement there is a round trip or at least a parse of its own.
"""

# ruff: noqa: S608 - the parts of the statements are names of tables and columns; values are parameters

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import postgresql

from edgeexit_calibration.store.binary_array import binary_array
from edgeexit_calibration.store.table_base import UtcDateTime

_POSTGRESQL: Final = "postgresql"
_TIME: Final = UtcDateTime()
_CASTS: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
_MAX_KEYS: Final = 1000
"""Databases limit the number of parameters of a statement."""
_Key = TypeVar("_Key")


def key_chunks(keys: Sequence[_Key]) -> list[Sequence[_Key]]:
    """Return keys in parts, each of which one statement may name."""
    return [keys[first : first + _MAX_KEYS] for first in range(0, len(keys), _MAX_KEYS)]


def table_of(row_class: type[Any]) -> Table:
    """Return the table of a mapped class."""
    return cast("Table", row_class.__table__)


def is_postgresql(connection: Connection) -> bool:
    """Return True for PostgreSQL, False for SQLite."""
    return connection.dialect.name == _POSTGRESQL


def driver_value(value: Any, dialect: Dialect) -> Any:
    """Return a value as the driver wants it: a time without its time zone, dictionaries and lists as JSON."""
    if isinstance(value, datetime):
        process = _TIME.dialect_impl(dialect).bind_processor(dialect)
        return _TIME.process_bind_param(value, dialect) if process is None else process(value)
    return json.dumps(value) if isinstance(value, dict | list) else value


def new_ids(connection: Connection, table: Table, count: int) -> Sequence[int]:
    """Return unused values of the column `id`. On SQLite, the transaction is the only one that writes."""
    if is_postgresql(connection):
        query = f"SELECT nextval(pg_get_serial_sequence('{table.name}', 'id')) FROM generate_series(1, %s)"
        return [row[0] for row in connection.exec_driver_sql(query, (count,))]
    highest = connection.exec_driver_sql(f"SELECT max(id) FROM {table.name}").scalar() or 0
    return range(highest + 1, highest + 1 + count)


def insert_rows(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows; each is a tuple in the order of the columns, of values as the driver wants them."""
    _execute(connection, table, tuple(columns), "", rows)


def upsert_rows(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    *,
    added: Sequence[str] = (),
    kept: bool = False,
) -> None:
    """Insert rows, or replace the columns outside the primary key of those that exist.

    Args:
        connection: in a transaction.
        table: the table.
        columns: names of the columns, the primary key included.
        rows: as in `insert_rows`; sorted by key here, so that two processes never wait for each other in a circle.
        added: columns whose values are added to the existing ones instead.
        kept: True: leave rows that exist as they are.

    """
    if rows:
        keys = [column.name for column in table.primary_key]
        places = [columns.index(key) for key in keys]
        _execute(
            connection,
            table,
            tuple(columns),
            " ON CONFLICT DO NOTHING" if kept else _on_conflict(table, tuple(keys), tuple(columns), tuple(added)),
            _sorted(rows, places),
        )


def update_rows(
    connection: Connection, table: Table, keys: Sequence[str], columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> int:
    """Set columns of existing rows to their parameters; return how many rows there were.

    Args:
        connection: in a transaction.
        table: the table.
        keys: the columns that identify a row.
        columns: names of the columns to set; a name that begins with + is a column to which the value is added.
        rows: tuples of the values of the columns, and then of the keys.

    """
    if not rows:
        return 0
    ordered = _sorted(rows, range(-len(keys), 0))
    names = [name.removeprefix("+") for name in columns]
    before = [f"{table.name}.{name} + " if plus != name else "" for plus, name in zip(columns, names, strict=True)]
    if is_postgresql(connection):
        values = ", ".join(f"{name} = {old}v.{name}" for name, old in zip(names, before, strict=True))
        same = " AND ".join(f"{table.name}.{key} = v.{key}" for key in keys)
        sql = f"UPDATE {table.name} SET {values} FROM {_unnest(table, (*names, *keys))} WHERE {same}"
        return connection.exec_driver_sql(sql, _arrays(table, (*names, *keys), ordered)).rowcount
    values = ", ".join(f"{name} = {old}?" for name, old in zip(names, before, strict=True))
    same = " AND ".join(f"{key} = ?" for key in keys)
    return connection.exec_driver_sql(f"UPDATE {table.name} SET {values} WHERE {same}", ordered).rowcount


def _execute(
    connection: Connection, table: Table, columns: tuple[str, ...], suffix: str, rows: Sequence[tuple[Any, ...]]
) -> None:
    if not rows:
        return
    names = ", ".join(columns)
    if is_postgresql(connection):
        sql = f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {_unnest(table, columns)}{suffix}"
        connection.exec_driver_sql(sql, _arrays(table, columns, rows))
    else:
        places = ", ".join("?" * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({places}){suffix}", list(rows))


def _sorted(rows: Sequence[tuple[Any, ...]], places: Sequence[int]) -> list[tuple[Any, ...]]:
    """Return rows sorted by the columns at these places; by the first one alone if it suffices, which is cheaper."""
    first = itemgetter(places[0])
    is_enough = len(set(map(first, rows))) == len(rows)
    return sorted(rows, key=first if is_enough else itemgetter(*places))


def _arrays(table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return rows as one array per column."""
    return tuple(
        binary_array(_type_name(table, name), values)
        for name, values in zip(columns, zip(*rows, strict=True), strict=True)
    )


@lru_cache(maxsize=64)
def _unnest(table: Table, columns: tuple[str, ...]) -> str:
    """Return the FROM item that turns one array per column, sent in binary form, into rows."""
    arrays = ", ".join(f"%b::{_type_name(table, name)}[]" for name in columns)
    return f"unnest({arrays}) AS v({', '.join(columns)})"


@lru_cache(maxsize=256)
def _type_name(table: Table, column: str) -> str:
    """Return the name of a column's type, without the collation, which an array cannot have."""
    return table.c[column].type.compile(_CASTS).partition(" COLLATE")[0]


@lru_cache(maxsize=64)
def _on_conflict(table: Table, keys: tuple[str, ...], columns: tuple[str, ...], added: tuple[str, ...]) -> str:
    values = ", ".join(
        f"{name} = {table.name + '.' + name + ' + ' if name in added else ''}excluded.{name}"
        for name in columns
        if name not in keys
    )
    return f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {values}"

"""Merges buckets of time into longer ones, a few hundred in each transaction, so that nothing is counted twice.

A kill between two transactions leaves buckets of both lengths; their sum is the same.
"""

from collections import defaultdict
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from edgeexit_calibration.store.counts import empty_counts, sum_counts
from edgeexit_calibration.store.retention import Merge
from edgeexit_calibration.store.tables import CohortBucketRow, DeviceBucketRow

Buckets = type[DeviceBucketRow] | type[CohortBucketRow]
_KEYS: Final[dict[Buckets, tuple[InstrumentedAttribute[Any], ...]]] = {
    DeviceBucketRow: (
        DeviceBucketRow.device_id,
        DeviceBucketRow.width_s,
        DeviceBucketRow.begin_s,
        DeviceBucketRow.revision,
        DeviceBucketRow.cohort_id,
    ),
    CohortBucketRow: (
        CohortBucketRow.cohort_id,
        CohortBucketRow.width_s,
        CohortBucketRow.begin_s,
        CohortBucketRow.revision,
        CohortBucketRow.writer,
    ),
}
"""The primary keys: owner, width, begin, and two more columns."""
MAX_ROWS: Final = 250
"""Buckets that one transaction merges: less than 0.1 s."""
_ROW_BYTES: Final = 100
"""Bytes of a row and its entries in the indices, besides the counts."""


class Space(NamedTuple):
    """Deleted rows, and about how many bytes they needed."""

    rows: int
    bytes: int


def roll_up(session: Session, table: Buckets, merge: Merge, *, max_rows: int = MAX_ROWS) -> int:
    """Merge the oldest buckets that are due; return how many were merged, 0 if none is left.

    On PostgreSQL, rows that another process has locked wait for the next call.
    """
    key = _KEYS[table]
    query = (
        select(*key, table.counts)
        .where(table.width_s == merge.narrow_s, table.begin_s < merge.before_s)
        .order_by(table.width_s, table.begin_s)
        .limit(max_rows)
        .with_for_update(skip_locked=True)
    )
    narrow = session.execute(query).all()
    if not narrow:
        return 0
    parts: defaultdict[tuple[Any, ...], list[bytes]] = defaultdict(list)
    for row in narrow:
        parts[_wide_key(tuple(row), merge)].append(row.counts)
    add_counts(session, table, dict(sorted(parts.items())))
    _delete(session, table, [tuple(row)[: len(key)] for row in narrow])
    return len(narrow)


def delete_oldest(session: Session, table: Buckets, *, before_s: int, width_s: int, max_rows: int = MAX_ROWS) -> Space:
    """Delete the oldest buckets of a length that begin before a time."""
    key = _KEYS[table]
    query = select(*key, func.length(table.counts)).where(table.width_s == width_s, table.begin_s < before_s)
    query = query.order_by(table.width_s, table.begin_s).limit(max_rows).with_for_update(skip_locked=True)
    found = [tuple(row) for row in session.execute(query)]
    _delete(session, table, [row[: len(key)] for row in found])
    return Space(len(found), sum(row[-1] + _ROW_BYTES for row in found))


def add_counts(session: Session, table: Buckets, parts: dict[tuple[Any, ...], list[bytes]]) -> None:
    """Add counts to rows, which are created if they do not exist. A process may create the same rows meanwhile.

    Args:
        session: in a transaction that writes.
        table: the table.
        parts: primary key -> packed counts to be added; sorted, so that two processes never wait for each other.

    """
    key = _KEYS[table]
    names = [column.key for column in key]
    new = [
        {**dict(zip(names, where, strict=True)), "counts": empty_counts(packed[0])} for where, packed in parts.items()
    ]
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    adding = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
    query = select(*key, table.counts).where(tuple_(*key).in_(list(parts))).order_by(*key).with_for_update()
    found: list[Any] = []
    while len(found) < len(parts):  # again, if another process has merged one of them between the two statements
        session.execute(adding.on_conflict_do_nothing(), new)
        found = list(session.execute(query))
    changed = [
        {**_bound(names, tuple(row)), "new_counts": sum_counts([row.counts, *parts[tuple(row)[: len(key)]]])}
        for row in found
    ]
    changing = update(table).where(*(column == bindparam(f"key_{column.key}") for column in key))
    session.connection().execute(changing.values(counts=bindparam("new_counts")), changed)


def _wide_key(row: tuple[Any, ...], merge: Merge) -> tuple[Any, ...]:
    owner, _, begin, *others = row[:-1]
    return (owner, merge.wide_s, begin // merge.wide_s * merge.wide_s, *others)


def _delete(session: Session, table: Buckets, keys: list[tuple[Any, ...]]) -> None:
    if not keys:
        return
    columns = _KEYS[table]
    names = [column.key for column in columns]
    deleting = delete(table).where(*(column == bindparam(f"key_{column.key}") for column in columns))
    session.connection().execute(deleting, [_bound(names, where) for where in sorted(keys)])


def _bound(names: list[str], values: tuple[Any, ...]) -> dict[str, Any]:
    return {f"key_{name}": value for name, value in zip(names, values, strict=False)}

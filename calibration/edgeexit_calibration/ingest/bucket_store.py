"""Adds counts to the buckets of time of devices, or of cohorts.

The counts are packed, so a bucket is read, added to, and written. The newest buckets of cohorts are remembered, because
every batch adds to them. Older ones, which belong to what a device sends after an outage, are read each time: the
roll-up merges them meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, select, tuple_

from edgeexit_calibration.ingest.bounded_cache import BoundedCache
from edgeexit_calibration.ingest.bulk_write import is_postgresql, key_chunks, table_of, upsert_rows
from edgeexit_calibration.ingest.count_matrix import Matrix, add_to_packed, sum_groups
from edgeexit_calibration.store.tables import CohortBucketRow, DeviceBucketRow

BucketKey = tuple[int | str, ...]
"""The primary key of a bucket, in the order of its columns."""

_COUNTS: Final = "counts"
_REMEMBERED_S: Final = 2 * 3600
"""A bucket that begins earlier is read each time. Only buckets that are much older are merged into wider ones."""
_MAX_ENTRIES: Final = 200_000
_MAX_BYTES: Final = 64 * 1024 * 1024
_NO_COUNTS: Final = bytes((1, 4))
"""A packed array of zeros for one exit."""


class BucketStore:
    """Adds to the buckets in one table. Only one thread may use it.

    Args:
        row_class: the table.
        is_remembered: whether the newest buckets are remembered. Then no other process may write rows that are younger
            than two hours.

    """

    def __init__(self, row_class: type[DeviceBucketRow | CohortBucketRow], *, is_remembered: bool = True) -> None:
        self._is_remembered = is_remembered
        self._table = table_of(row_class)
        self._keys = [column.name for column in self._table.primary_key]
        self._begin = self._keys.index("begin_s")
        self._known: BoundedCache[BucketKey, bytes] = BoundedCache(_MAX_ENTRIES, max_bytes=_MAX_BYTES, size_of=len)

    def forget(self) -> None:
        """Read every bucket again before the next addition."""
        self._known.clear()

    def add(self, connection: Connection, keys: Sequence[BucketKey], counts: Matrix, *, now_s: float) -> None:
        """Add each row of counts [N, 62 K + 1] to the bucket with the key of the same place."""
        numbers: dict[BucketKey, int] = {}
        groups = [numbers.setdefault(key, len(numbers)) for key in keys]
        sums = sum_groups(counts, groups, len(numbers))
        stored = self._read(connection, list(numbers), now_s=now_s)
        packed = add_to_packed([stored.get(key) for key in numbers], sums)
        rows = [(*key, content) for key, content in zip(numbers, packed, strict=True)]
        upsert_rows(connection, self._table, [*self._keys, _COUNTS], rows)
        for key, content in zip(numbers, packed, strict=True):
            if self._is_remembered and self._is_new(key, now_s):
                self._known.put(key, content)

    def _is_new(self, key: BucketKey, now_s: float) -> bool:
        return int(key[self._begin]) > now_s - _REMEMBERED_S

    def _read(self, connection: Connection, keys: Sequence[BucketKey], *, now_s: float) -> Mapping[BucketKey, bytes]:
        """Return the stored counts of those buckets that exist, and lock the old ones."""
        found: dict[BucketKey, bytes] = {}
        unread: list[BucketKey] = []
        old: list[BucketKey] = []
        for key in keys:
            if not self._is_new(key, now_s):
                old.append(key)
            elif (content := self._known.get(key)) is not None:
                found[key] = content
            else:
                unread.append(key)
        found.update(self._select(connection, unread))
        if old and is_postgresql(connection):
            self._lock(connection, old)
        found.update(self._select(connection, old))
        return found

    def _lock(self, connection: Connection, keys: Sequence[BucketKey]) -> None:
        """Lock rows, after creating those that do not exist, so that the roll-up adds to them before or after us.

        It may remove a row between the two statements; then both are repeated.
        """
        for chunk in key_chunks(sorted(keys)):
            empty = [(*key, _NO_COUNTS) for key in chunk]
            locked = 0
            while locked < len(chunk):
                upsert_rows(connection, self._table, [*self._keys, _COUNTS], empty, kept=True)
                locked = len(connection.execute(self._query(chunk).with_for_update()).all())

    def _select(self, connection: Connection, keys: Sequence[BucketKey]) -> Mapping[BucketKey, bytes]:
        rows = [row for chunk in key_chunks(keys) for row in connection.execute(self._query(chunk))]
        return {tuple(row[:-1]): row[-1] for row in rows}

    def _query(self, keys: Sequence[BucketKey]) -> Any:
        columns = [self._table.c[name] for name in self._keys]
        return select(*columns, self._table.c[_COUNTS]).where(tuple_(*columns).in_(keys)).order_by(*columns)

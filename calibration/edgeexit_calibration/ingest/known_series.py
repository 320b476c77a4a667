"""The newest report of each series of a device, and when its agent started: what de-duplication needs.

A series is what one agent reports under one revision: (device, start, revision). The newest ones are in memory. Those
without a report for hours are read from the database each time, and locked, because they may expire meanwhile.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from sqlalchemy import Connection, select, tuple_

from edgeexit_calibration.ingest.bounded_cache import BoundedCache
from edgeexit_calibration.ingest.bulk_write import key_chunks
from edgeexit_calibration.store.tables import SeriesRow

StartKey = tuple[int, str]
"""Id of a device, and a start of its agent."""
SeriesKey = tuple[int, str, int]
"""Id of a device, a start of its agent, and a revision."""

_KEYS: Final = (SeriesRow.device_id, SeriesRow.start, SeriesRow.revision)
_MAX_ENTRIES: Final = 200_000
_MAX_BYTES: Final = 128 * 1024 * 1024
_REMEMBERED_S: Final = 2 * 3600
"""A series without a report for longer is read each time. Only series that are much older expire."""


class NewestReport(msgspec.Struct, frozen=True, gc=False):
    """The report of a series with the highest sequence number, and the bucket of time that it belongs to."""

    sequence: int
    counts: bytes | None
    """Packed cumulative counters; None: the series has expired."""
    cohort_id: int
    bucket: tuple[int, int]
    """Length and begin of the newest bucket, in s."""
    base: bytes | None
    """Packed cumulative counters at the begin of the newest bucket; None: zeros."""
    received_s: float
    """Unix time at which it arrived."""


def _size_of(newest: NewestReport) -> int:
    return len(newest.counts or b"") + len(newest.base or b"")


class KnownSeries:
    """The newest reports and the times of starts. Only one thread may use it."""

    def __init__(self) -> None:
        self._newest: BoundedCache[SeriesKey, NewestReport] = BoundedCache(
            _MAX_ENTRIES, max_bytes=_MAX_BYTES, size_of=_size_of
        )
        self._started_at: BoundedCache[StartKey, float] = BoundedCache(_MAX_ENTRIES)

    def forget(self) -> None:
        """Read everything again when it is needed."""
        self._newest.clear()
        self._started_at.clear()

    def put(self, key: SeriesKey, newest: NewestReport) -> None:
        """Remember what was written."""
        self._newest.put(key, newest)

    def find(self, connection: Connection, keys: Iterable[SeriesKey], *, now_s: float) -> dict[SeriesKey, NewestReport]:
        """Return the newest report of each series that has one; `now_s` is the Unix time."""
        found: dict[SeriesKey, NewestReport] = {}
        unread: list[SeriesKey] = []
        for key in keys:
            newest = self._newest.get(key)
            if newest is None or newest.received_s < now_s - _REMEMBERED_S:
                unread.append(key)
            else:
                found[key] = newest
        for chunk in key_chunks(sorted(unread)):
            query = select(SeriesRow.__table__).where(tuple_(*_KEYS).in_(chunk)).order_by(*_KEYS).with_for_update()
            for row in connection.execute(query):
                found[row.device_id, row.start, row.revision] = NewestReport(
                    row.sequence,
                    row.counts,
                    row.cohort_id,
                    (row.width_s, row.begin_s),
                    row.base,
                    row.received_at.timestamp(),
                )
        return found

    def started_at(self, connection: Connection, estimates: Mapping[StartKey, float]) -> dict[StartKey, float]:
        """Return when agents started, as Unix times in s: the lowest estimate of all their reports, with these ones."""
        lowest = dict(estimates)
        unread: list[StartKey] = []
        changed: list[StartKey] = []
        for key, estimate in estimates.items():
            known = self._started_at.get(key)
            if known is None:
                unread.append(key)
            elif known <= estimate:
                lowest[key] = known
                continue
            changed.append(key)
        columns = (SeriesRow.device_id, SeriesRow.start)
        for chunk in key_chunks(unread):
            query = select(*columns, SeriesRow.started_at).where(tuple_(*columns).in_(chunk))
            for device_id, start, started_at in connection.execute(query):
                lowest[device_id, start] = min(started_at, lowest[device_id, start])
        for key in changed:
            self._started_at.put(key, lowest[key])
        return lowest

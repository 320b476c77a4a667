"""The newest buckets of devices, which are parts of the rows of their series until later ones begin."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.counts import difference, has_counts
from edgeexit_calibration.store.tables import DeviceBucketRow, SeriesRow


class DeviceBucket(NamedTuple):
    """What one device counted in a span of time, under one revision; see `tables.DeviceBucketRow`."""

    device_id: int
    width_s: int
    begin_s: int
    revision: int
    cohort_id: int
    counts: bytes


def open_buckets(session: Session, *conditions: ColumnElement[bool]) -> Iterator[DeviceBucket]:
    """Yield the newest buckets, without empty ones, of the series that meet conditions on `SeriesRow`."""
    query = select(
        SeriesRow.device_id, SeriesRow.width_s, SeriesRow.begin_s, SeriesRow.revision, SeriesRow.cohort_id,
        SeriesRow.counts, SeriesRow.base,
    )  # fmt: skip
    for row in session.execute(query.where(SeriesRow.counts.is_not(None), *conditions)):
        counted = difference(row.counts, row.base)
        if has_counts(counted):
            yield DeviceBucket(row.device_id, row.width_s, row.begin_s, row.revision, row.cohort_id, counted)


def device_buckets(session: Session, device_ids: list[int]) -> Iterator[DeviceBucket]:
    """Yield the buckets of some devices, the newest ones included; two of them may have the same key."""
    table = DeviceBucketRow.__table__
    for row in session.execute(select(table).where(DeviceBucketRow.device_id.in_(device_ids))):
        yield DeviceBucket(*row)
    yield from open_buckets(session, SeriesRow.device_id.in_(device_ids))

"""Merges buckets and deletes what is too old, in small transactions, so that the storage of messages never waits.

A step is one transaction. What a kill interrupts is done by the next pass.
"""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.errors import DatabaseError, is_contention
from edgeexit_calibration.store.expiry import (
    delete_audits,
    delete_events,
    delete_samples,
    delete_series,
    expire_series,
    first_audit_since,
    first_event_since,
    forgotten_series,
    idle_series,
    sample_bounds,
)
from edgeexit_calibration.store.retention import DAY_S, WIDTHS_S, Retention, cohort_merges, device_merges
from edgeexit_calibration.store.roll_up import delete_oldest, roll_up
from edgeexit_calibration.store.size_limit import forget_size, limit_size
from edgeexit_calibration.store.small_steps import step
from edgeexit_calibration.store.tables import CohortBucketRow, CohortRow, DeviceBucketRow, DeviceRow, ShardRow
from edgeexit_calibration.store.troubles import clear_ended

_DEVICES: Final = 500
"""Devices whose series one step looks at."""
_Found = TypeVar("_Found")


class MaintenanceResult(msgspec.Struct, kw_only=True):
    """What was done since the pass began."""

    merged_buckets: int = 0
    deleted_buckets: int = 0
    deleted_samples: int = 0
    deleted_audits: int = 0
    deleted_events: int = 0
    expired_series: int = 0
    deleted_series: int = 0
    postponed_steps: int = 0
    """Steps that gave way to the storage of messages; the next pass repeats them."""


class Maintenance:
    """Maintains a database in the background, a little at each call.

    Args:
        database: is written to; a fenced one, if other processes may take over.
        retention: how long what is kept.
        interval_s: time between two passes. The first one, and one per day, also looks for what is too old.

    """

    def __init__(self, database: Database, retention: Retention, *, interval_s: float = 300.0) -> None:
        self._database = database
        self._retention = retention
        self._interval = timedelta(seconds=interval_s)
        self._steps: Iterator[None] | None = None
        self._result = MaintenanceResult()
        self._next_pass: datetime | None = None
        self._next_expiry: datetime | None = None

    def run(self, *, now: datetime, stop: threading.Event, max_s: float = 1.0) -> MaintenanceResult | None:
        """Continue a pass, or begin one if it is time, for about `max_s`; return the result of a pass that has ended.

        Between two steps it waits as long as the first one took. Raises DatabaseError; the next call begins a new pass.
        """
        if self._steps is None:
            if self._next_pass is not None and now < self._next_pass:
                return None
            expires = self._next_expiry is None or now >= self._next_expiry
            if expires:
                self._next_expiry = now + timedelta(days=1)
            self._result = MaintenanceResult()
            self._steps = _steps(self._database, self._retention, now=now, expires=expires, result=self._result)
        try:
            is_done = _run(self._steps, stop=stop, max_s=max_s)
        except DatabaseError as error:
            self._steps = self._next_expiry = None
            if not is_contention(error):
                raise
            self._next_pass = now + self._interval  # the storage of messages goes first
            return None
        except BaseException:
            self._steps = self._next_expiry = None
            raise
        if not is_done:
            return None
        self._steps, self._next_pass = None, now + self._interval
        return self._result


def maintain(
    database: Database, retention: Retention, *, now: datetime, stop: threading.Event | None = None
) -> MaintenanceResult:
    """Do everything that is due now; return what was done. Raises DatabaseError."""
    result = MaintenanceResult()
    steps = _steps(database, retention, now=now, expires=True, result=result)
    _run(steps, stop=stop or threading.Event(), max_s=float("inf"))
    return result


def _run(steps: Iterator[None], *, stop: threading.Event, max_s: float) -> bool:
    """Take steps until the last one, for at most `max_s`; return whether it was the last one."""
    end = time.monotonic() + max_s
    while not stop.is_set():
        begin = time.monotonic()
        if next(steps, steps) is steps:
            return True
        now = time.monotonic()
        if now + (now - begin) > end:
            return False
        stop.wait(now - begin)
    return False


def _steps(
    database: Database, retention: Retention, *, now: datetime, expires: bool, result: MaintenanceResult
) -> Iterator[None]:
    """Do one transaction before each yield."""
    now_s = now.timestamp()
    for fleet in _read(database, lambda session: session.scalars(select(ShardRow.fleet).distinct()).all()):
        with step(database) as session:
            clear_ended(session, fleet, now=now)
        yield
    if expires:  # first, because the newest buckets of series become rows, which may be due to be merged
        yield from _expire_series(database, retention, now=now, result=result)
    for device_merge in device_merges(retention, now_s=now_s):
        yield from _repeat(
            database, result, "merged_buckets", partial(roll_up, table=DeviceBucketRow, merge=device_merge)
        )
    for cohort_merge in cohort_merges(retention, now_s=now_s):
        yield from _repeat(
            database, result, "merged_buckets", partial(roll_up, table=CohortBucketRow, merge=cohort_merge)
        )
    if expires:
        oldest_s = int(now_s) - retention.device_days_days * DAY_S
        for width_s in WIDTHS_S:
            yield from _repeat(
                database,
                result,
                "deleted_buckets",
                partial(_delete_buckets, before_s=oldest_s, width_s=width_s),
            )
        yield from _expire_audits(database, retention, now=now, result=result)
        yield from _expire_events(database, retention, now=now, result=result)
    if retention.max_bytes is None:
        with step(database) as session:
            forget_size(session)
        yield
    else:
        for deleted in limit_size(database, retention.max_bytes, now=now):
            result.deleted_buckets += deleted.buckets
            result.deleted_samples += deleted.samples
            yield


def _expire_audits(
    database: Database, retention: Retention, *, now: datetime, result: MaintenanceResult
) -> Iterator[None]:
    with database.reading() as session:
        young_samples = first_audit_since(session, now - timedelta(days=retention.samples_days))
        young_numbers = first_audit_since(session, now - timedelta(days=retention.numbers_days))
        cohorts = session.scalars(select(CohortRow.id).order_by(CohortRow.id)).all()
    yield
    for cohort_id in cohorts:
        with database.reading() as session:
            bounds = sample_bounds(
                session, cohort_id, first_young_audit=young_samples, max_samples=retention.max_samples
            )
        yield
        yield from _repeat(database, result, "deleted_samples", partial(delete_samples, bounds=bounds))
    last_id = 0
    while last_id < young_numbers - 1:
        with step(database) as session:
            count, last_id = delete_audits(session, before_id=young_numbers, after_id=last_id)
        result.deleted_audits += count
        yield


def _expire_events(
    database: Database, retention: Retention, *, now: datetime, result: MaintenanceResult
) -> Iterator[None]:
    with database.reading() as session:
        young = first_event_since(session, now - timedelta(days=retention.events_days))
    yield
    yield from _repeat(database, result, "deleted_events", partial(delete_events, before_id=young))


def _expire_series(
    database: Database, retention: Retention, *, now: datetime, result: MaintenanceResult
) -> Iterator[None]:
    idle, forgotten = now - timedelta(days=retention.series_days), now - timedelta(days=retention.numbers_days)
    with database.reading() as session:
        highest = session.scalar(select(func.max(DeviceRow.id))) or 0
    yield
    for first in range(1, highest + 1, _DEVICES):
        devices = range(first, first + _DEVICES)
        # Most devices have nothing to expire, which is found out without the lock for writing.
        if _read(database, partial(idle_series, before=idle, devices=devices)):
            yield from _repeat(database, result, "expired_series", partial(_expire, before=idle, devices=devices))
        if _read(database, partial(forgotten_series, before=forgotten, devices=devices)):
            yield from _repeat(database, result, "deleted_series", partial(_forget, before=forgotten, devices=devices))
        yield


def _expire(session: Session, *, before: datetime, devices: range) -> int:
    return expire_series(session, idle_series(session, before=before, devices=devices), before=before)


def _forget(session: Session, *, before: datetime, devices: range) -> int:
    return delete_series(session, forgotten_series(session, before=before, devices=devices), before=before)


def _delete_buckets(session: Session, *, before_s: int, width_s: int) -> int:
    return delete_oldest(session, DeviceBucketRow, before_s=before_s, width_s=width_s).rows


def _read(database: Database, query: Callable[[Session], _Found]) -> _Found:
    with database.reading() as session:
        return query(session)


def _repeat(
    database: Database, result: MaintenanceResult, counter: str, change: Callable[[Session], int]
) -> Iterator[None]:
    """Repeat a change, each time in a transaction, until it finds nothing; add its counts to the result."""
    while True:
        try:
            with step(database) as session:
                count = change(session)
        except DatabaseError as error:
            if not is_contention(error):
                raise
            result.postponed_steps += 1
            return
        setattr(result, counter, getattr(result, counter) + count)
        yield
        if not count:
            return

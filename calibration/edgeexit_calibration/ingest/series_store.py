"""Stores reports: de-duplicates them, and adds what each one has counted to the buckets of its time.

Reports are cumulative: within a series, a higher sequence number replaces all lower ones. So a report adds the
difference from the newest stored one, whatever arrives in between, in whatever order, and however often.

The newest bucket of a device is part of the row of the series, see `tables.SeriesRow`. It is written to the table of
buckets when a report belongs to another one.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import Connection

from edgeexit.wire.counter_array import PER_EXIT, Counts, width_of
from edgeexit_calibration.ingest.bucket_store import BucketKey, BucketStore
from edgeexit_calibration.ingest.bulk_write import driver_value, table_of, update_rows, upsert_rows
from edgeexit_calibration.ingest.count_matrix import Matrix, pack_rows, unpack_rows
from edgeexit_calibration.ingest.drops import Drop
from edgeexit_calibration.ingest.known_devices import KnownDevice
from edgeexit_calibration.ingest.known_series import KnownSeries, NewestReport, SeriesKey, StartKey
from edgeexit_calibration.ingest.report_head import ReportHead
from edgeexit_calibration.ingest.time_buckets import Span, buckets_at
from edgeexit_calibration.store.tables import CohortBucketRow, DeviceBucketRow, SeriesRow

_TABLE: Final = table_of(SeriesRow)
_KEYS: Final = ("device_id", "start", "revision")
_CHANGING: Final = ("sequence", "counts", "started_at", "received_at")
_COLUMNS: Final = (*_KEYS, *_CHANGING, "cohort_id", "width_s", "begin_s", "base")
_OTHER_COHORT: Final = "earlier reports of this start and revision have another cohort, or another number of exits"


class AcceptedReport(NamedTuple):
    """A report that is to be stored, with its device and the id of its cohort."""

    device: KnownDevice
    cohort_id: int
    report: ReportHead
    counts: Counts
    """Its counters [62 K + 1]."""


class _SeriesStep(msgspec.Struct, frozen=True, gc=False):
    """A report that is newer than those before it in its series."""

    accepted: AcceptedReport
    key: SeriesKey
    known: NewestReport | None
    """The newest report of the series before this batch."""
    follows: bool
    """True: the report before it is the step before it; otherwise it is `known`."""
    is_newest: bool


class _Group(NamedTuple):
    """Reports with the same number of exits; those of a series follow each other, in order."""

    steps: Sequence[_SeriesStep]
    matrix: Matrix
    """Their counters [N, 62 K + 1]."""
    before: Matrix
    """The counters of the report before each one in its series, or zeros [N, 62 K + 1]."""
    starts: Sequence[float]
    """Estimated Unix times in s at which the agents started."""
    buckets: Sequence[Span]


class SeriesStore:
    """Stores reports. Only one thread may use it; no other process may store reports of the same devices."""

    def __init__(self) -> None:
        self._known = KnownSeries()
        self._device_buckets = BucketStore(DeviceBucketRow, is_remembered=False)
        self._cohort_buckets = BucketStore(CohortBucketRow)

    def forget(self) -> None:
        """Read everything again from the database when it is needed."""
        self._known.forget()
        self._cohort_buckets.forget()

    def store(
        self, connection: Connection, reports: Sequence[AcceptedReport], *, now: datetime
    ) -> tuple[list[AcceptedReport], list[Drop]]:
        """Write reports; return the newest one per series, without those that are not new, and what was dropped."""
        by_series: dict[SeriesKey, list[AcceptedReport]] = {}
        for accepted in reports:
            report = accepted.report
            by_series.setdefault((accepted.device.id, report.start, report.revision), []).append(accepted)
        now_s = now.timestamp()
        steps, drops = _steps(by_series, self._known.find(connection, by_series, now_s=now_s))
        if not steps:
            return [], drops
        estimates: dict[StartKey, float] = {}
        for group in steps.values():
            for step in group:
                start, estimate = step.key[:2], now_s - step.accepted.report.uptime_s
                if estimate < estimates.get(start, now_s + 1):
                    estimates[start] = estimate
        started_at = self._known.started_at(connection, estimates)
        for group in steps.values():
            self._write(connection, group, started_at, now=now)
        return [step.accepted for group in steps.values() for step in group if step.is_newest], drops

    def _write(
        self, connection: Connection, steps: Sequence[_SeriesStep], started_at: dict[StartKey, float], *, now: datetime
    ) -> None:
        """Write reports with the same number of exits."""
        matrix = np.concatenate([step.accepted.counts for step in steps]).reshape(len(steps), -1)
        before = unpack_rows(
            [None if step.follows or step.known is None else step.known.counts for step in steps],
            matrix.shape[1] // PER_EXIT,
        )
        follows = [row for row, step in enumerate(steps) if step.follows]
        if follows:
            before[follows] = matrix[np.array(follows) - 1]
        starts = [started_at[step.key[:2]] for step in steps]
        now_s = now.timestamp()
        buckets = buckets_at(starts, [step.accepted.report.uptime_s for step in steps], now_s=now_s)
        group = _Group(steps, matrix, before, starts, buckets)
        bases = self._close_buckets(connection, group, now_s=now_s)
        self._write_series(connection, group, bases, now=now)
        self._add_to_cohorts(connection, group, now_s=now_s)

    def _close_buckets(self, connection: Connection, group: _Group, *, now_s: float) -> dict[SeriesKey, bytes]:
        """Write the newest buckets of series of which a report belongs to another one; return the new bases.

        Counters never decrease, unless a device is hostile. Then the bucket is closed, too, because what it has counted
        would not be the difference from its base any longer.
        """
        _, matrix, before, _, buckets = group
        decreases = np.any(matrix < before, axis=1).tolist()
        closing: list[int] = []
        keys: list[BucketKey] = []
        last: Span | None = None
        for row, step in enumerate(group.steps):
            if not step.follows:
                last = None if step.known is None else step.known.bucket
            if last is not None and (last != buckets[row] or decreases[row]):
                closing.append(row)
                keys.append((step.key[0], *last, step.key[2], step.accepted.cohort_id))
            last = buckets[row]
        bases: dict[SeriesKey, bytes] = {}
        if not closing:
            return bases
        closed: list[bytes | None] = []
        for row, base in zip(closing, pack_rows(np.minimum(before[closing], matrix[closing])), strict=True):
            step = group.steps[row]
            closed.append(bases.get(step.key, None if step.known is None else step.known.base))
            bases[step.key] = base
        counted = before[closing] - unpack_rows(closed, matrix.shape[1] // PER_EXIT)
        self._device_buckets.add(connection, keys, counted, now_s=now_s)
        return bases

    def _write_series(
        self, connection: Connection, group: _Group, bases: dict[SeriesKey, bytes], *, now: datetime
    ) -> None:
        """Write the newest report of each series. Raises LookupError if a row has gone that must exist."""
        steps, matrix, _, starts, buckets = group
        newest = [row for row, step in enumerate(steps) if step.is_newest]
        packed = pack_rows(matrix if len(newest) == len(steps) else matrix[newest])
        now_s, received_at = now.timestamp(), driver_value(now, connection.dialect)
        written: list[tuple[object, ...]] = []
        updated: list[tuple[object, ...]] = []
        for row, counts in zip(newest, packed, strict=True):
            step = steps[row]
            key, known = step.key, step.known
            _, cohort_id, report, _ = step.accepted
            changing = (report.sequence, counts, starts[row], received_at)
            bucket, base = buckets[row], bases.get(key)
            if base is None and known is not None:
                base = known.base
                updated.append(changing + key)
            else:
                written.append((*key, *changing, cohort_id, *bucket, base))
            self._known.put(key, NewestReport(report.sequence, counts, cohort_id, bucket, base, now_s))
        upsert_rows(connection, _TABLE, _COLUMNS, written)
        if update_rows(connection, _TABLE, _KEYS, _CHANGING, updated) != len(updated):
            raise LookupError("rows of series have gone, although nothing deletes them so early")

    def _add_to_cohorts(self, connection: Connection, group: _Group, *, now_s: float) -> None:
        """Add what the devices that count have counted to the buckets of their cohorts."""
        steps, matrix, before, _, buckets = group
        counted: list[int] = []
        keys: list[BucketKey] = []
        for row, (step, bucket) in enumerate(zip(steps, buckets, strict=True)):
            device, cohort_id, *_ = step.accepted
            if device.counted:
                counted.append(row)
                keys.append((cohort_id, *bucket, step.key[2], device.address.shard))
        if counted:
            added = np.maximum(matrix - before, 0)
            of_counted = added if len(counted) == len(steps) else added[counted]
            self._cohort_buckets.add(connection, keys, of_counted, now_s=now_s)


def _steps(
    by_series: dict[SeriesKey, list[AcceptedReport]], known: dict[SeriesKey, NewestReport]
) -> tuple[dict[int, list[_SeriesStep]], list[Drop]]:
    """Return the reports that are new, by number of exits, those of a series in order; and what is dropped."""
    steps: dict[int, list[_SeriesStep]] = {}
    drops: list[Drop] = []
    for key, reports in by_series.items():
        newest = known.get(key)
        if newest is not None and newest.counts is None:
            drops += (
                Drop(device.address, "expired", "the counts of this start and revision have expired")
                for device, *_ in reports
            )
            continue
        if len(reports) > 1:
            reports.sort(key=lambda accepted: accepted.report.sequence)
        sequence = -1
        cohort_id, width = reports[0].cohort_id, len(reports[0].counts)
        if newest is not None and newest.counts is not None:
            sequence, cohort_id, width = newest.sequence, newest.cohort_id, width_of(newest.counts[0])
        fresh: list[AcceptedReport] = []
        for accepted in reports:
            if accepted.cohort_id != cohort_id or len(accepted.counts) != width:
                drops.append(Drop(accepted.device.address, "other cohort", _OTHER_COHORT))
            elif accepted.report.sequence > sequence:
                sequence = accepted.report.sequence
                fresh.append(accepted)
        if fresh:
            steps.setdefault(width // PER_EXIT, []).extend(
                _SeriesStep(accepted, key, newest, place > 0, accepted is fresh[-1])
                for place, accepted in enumerate(fresh)
            )
    return steps, drops

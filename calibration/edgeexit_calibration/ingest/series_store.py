"""Stores reports: de-duplicates them, and adds what each one has counted to the buckets of its time.

Reports are cumulative: within a series, a higher sequence number replaces all lower ones. So a report adds the
difference from the newest stored one, whatever arrives in between, in whatever order, and however often.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from sqlalchemy import Connection

from edgeexit.wire.counter_array import PER_EXIT, Counts
from edgeexit_calibration.ingest.bucket_store import BucketKey, BucketStore
from edgeexit_calibration.ingest.bulk_write import driver_value, table_of, upsert_rows
from edgeexit_calibration.ingest.count_matrix import pack_rows, unpack_rows
from edgeexit_calibration.ingest.drops import Drop
from edgeexit_calibration.ingest.known_devices import KnownDevice
from edgeexit_calibration.ingest.known_series import KnownSeries, NewestReport, SeriesKey, StartKey
from edgeexit_calibration.ingest.report_head import ReportHead
from edgeexit_calibration.ingest.time_buckets import buckets_at
from edgeexit_calibration.store.counts import pack_counts
from edgeexit_calibration.store.tables import CohortBucketRow, DeviceBucketRow, SeriesRow

_TABLE: Final = table_of(SeriesRow)
_COLUMNS: Final = (
    "device_id", "start", "revision", "cohort_id", "sequence", "counts", "started_at", "received_at",
)  # fmt: skip


class AcceptedReport(NamedTuple):
    """A report that is to be stored, with its device and the id of its cohort."""

    device: KnownDevice
    cohort_id: int
    report: ReportHead
    counts: Counts
    """Its counters [62 K + 1]."""


class _SeriesStep(NamedTuple):
    """A report that is newer than those before it in its series."""

    accepted: AcceptedReport
    key: SeriesKey
    before: bytes | None
    """Packed counters of the report before it; None: zeros, or those of the row above in the same matrix."""
    follows: bool
    """True: the report before it is in the row above."""
    is_newest: bool


class SeriesStore:
    """Stores reports. Only one thread may use it; no other process may store reports of the same devices."""

    def __init__(self) -> None:
        self._known = KnownSeries()
        self._device_buckets = BucketStore(DeviceBucketRow)
        self._cohort_buckets = BucketStore(CohortBucketRow)

    def forget(self) -> None:
        """Read everything again from the database when it is needed."""
        self._known.forget()
        self._device_buckets.forget()
        self._cohort_buckets.forget()

    def store(
        self, connection: Connection, reports: Sequence[AcceptedReport], *, now: datetime
    ) -> tuple[list[AcceptedReport], list[Drop]]:
        """Write reports; return the newest one per series, without those that are not new, and what was dropped."""
        by_series: dict[SeriesKey, list[AcceptedReport]] = {}
        for accepted in reports:
            report = accepted.report
            by_series.setdefault((accepted.device.id, report.start, report.revision), []).append(accepted)
        known = self._known.find(connection, by_series)
        steps, drops = _steps(by_series, known)
        if not steps:
            return [], drops
        now_s = now.timestamp()
        estimates: dict[StartKey, float] = {}
        for group in steps.values():
            for step in group:
                start, estimate = step.key[:2], now_s - step.accepted.report.uptime_s
                if estimate < estimates.get(start, now_s + 1):
                    estimates[start] = estimate
        started_at = self._known.started_at(connection, estimates)
        received_at = driver_value(now, connection.dialect)
        for group in steps.values():
            self._write(connection, group, started_at, now_s=now_s, received_at=received_at)
        return [step.accepted for group in steps.values() for step in group if step.is_newest], drops

    def _write(
        self,
        connection: Connection,
        steps: Sequence[_SeriesStep],
        started_at: dict[StartKey, float],
        *,
        now_s: float,
        received_at: object,
    ) -> None:
        """Write reports with the same number of exits."""
        matrix = np.concatenate([step.accepted.counts for step in steps]).reshape(len(steps), -1)
        before = unpack_rows([step.before for step in steps], len(matrix[0]) // PER_EXIT)
        follows = [row for row, step in enumerate(steps) if step.follows]
        if follows:
            before[follows] = matrix[np.array(follows) - 1]
        added = np.maximum(matrix - before, 0)

        newest = [row for row, step in enumerate(steps) if step.is_newest]
        packed = pack_rows(matrix if len(newest) == len(steps) else matrix[newest])
        rows = []
        for row, counts in zip(newest, packed, strict=True):
            (_, cohort_id, report, _), key, *_ = steps[row]
            rows.append((*key, cohort_id, report.sequence, counts, started_at[key[:2]], received_at))
            self._known.put(key, NewestReport(report.sequence, counts))
        upsert_rows(connection, _TABLE, _COLUMNS, rows)

        starts = [started_at[step.key[:2]] for step in steps]
        buckets = buckets_at(starts, [step.accepted.report.uptime_s for step in steps], now_s=now_s)
        device_keys: list[BucketKey] = []
        cohort_keys: list[BucketKey] = []
        counted: list[int] = []
        for row, ((device, cohort_id, report, _), (width, begin)) in enumerate(
            zip([step.accepted for step in steps], buckets, strict=True)
        ):
            device_keys.append((device.id, width, begin, report.revision, cohort_id))
            if device.counted:
                counted.append(row)
                cohort_keys.append((cohort_id, width, begin, report.revision, device.address.shard))
        self._device_buckets.add(connection, device_keys, added, now_s=now_s)
        if counted:
            of_counted = added if len(counted) == len(steps) else added[counted]
            self._cohort_buckets.add(connection, cohort_keys, of_counted, now_s=now_s)


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
        sequence, before = (-1, None) if newest is None else newest
        if len(reports) > 1:
            reports.sort(key=lambda accepted: accepted.report.sequence)
        fresh = []
        for accepted in reports:
            if accepted.report.sequence > sequence:
                sequence = accepted.report.sequence
                fresh.append(accepted)
        last: AcceptedReport | None = None
        for accepted in fresh:
            exits = len(accepted.counts) // PER_EXIT
            follows = last is not None and len(last.counts) == len(accepted.counts)
            if last is not None:
                before = None if follows else pack_counts(last.counts)
            last = accepted
            steps.setdefault(exits, []).append(_SeriesStep(accepted, key, before, follows, accepted is fresh[-1]))
    return steps, drops

"""How exit mix and latency of a cohort or a device changed over time, from the buckets that are stored.

Recent counts are stored in short spans, older ones in longer ones. A point is never finer than the buckets in it.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Final

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from edgeexit.errors import ConfigError
from edgeexit.latency import BIN_COUNT
from edgeexit_calibration.ingest.count_matrix import sum_groups, unpack_rows
from edgeexit_calibration.store.cohorts import CohortAddress, find_cohort
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.open_buckets import open_buckets
from edgeexit_calibration.store.tables import (
    CohortBucketRow,
    CohortRow,
    DeviceBucketRow,
    RegistrationRow,
    SeriesRow,
)
from edgeexit_calibration.views.buckets import (
    LatencyEstimate,
    estimate_latencies,
    exited,
    exits_of,
    latency_histograms,
)
from edgeexit_calibration.views.names import address_of, find_named_device

WIDTHS_S: Final = (900, 3600, 86400)
"""The lengths of stored buckets."""
_DAY_S: Final = WIDTHS_S[-1]
_STEPS_S: Final = (900, 1800, 3600, 7200, 10800, 14400, 21600, 28800, 43200)
"""Steps below a day; each contains full buckets, and a day contains full steps."""
_MAX_POINTS: Final = 10_000

_Bucket = tuple[int, int, bytes]
"""Width in s, begin in s, packed counts."""
_Table = type[CohortBucketRow] | type[DeviceBucketRow] | type[SeriesRow]


class TrendPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted in a span of time."""

    begin: datetime
    span_s: int
    """Length of the span; longer than the step where only longer buckets are stored."""
    samples: int
    failed: int
    """Failed inferences."""
    exited: tuple[int, ...]
    """[K] number of samples that exited at each exit."""
    latency: LatencyEstimate | None
    """Of all samples; null if it was not measured."""
    exit_latency: tuple[LatencyEstimate | None, ...]
    """[K] of the samples that exited at each exit."""

    @property
    def rates(self) -> tuple[float, ...] | None:
        """[K] fractions of the samples, or None without samples."""
        return tuple(count / self.samples for count in self.exited) if self.samples else None


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """Points of time, oldest first; spans without any count are left out."""

    cohort: CohortAddress | None
    """Null: unknown."""
    exits: tuple[str, ...]
    """[K] names of the exits; their numbers if the cohort is not registered."""
    step_s: int
    """The step that was chosen: the requested one, or the next longer one that buckets allow."""
    points: tuple[TrendPoint, ...]

    @property
    def is_coarser(self) -> bool:
        """True if a point is longer than the step, because only longer buckets are stored of its time."""
        return any(point.span_s > self.step_s for point in self.points)


def trend(
    database: Database,
    subject: CohortAddress | str,
    *,
    since: datetime,
    until: datetime,
    step_s: int = 3600,
    revision: int | None = None,
) -> Trend:
    """Return the trend of a cohort, or of a device under the cohort in its newest state.

    Args:
        database: contains the buckets.
        subject: the cohort, or the name of a device as `DEVICE`, `SHARD/DEVICE` or `FLEET/SHARD/DEVICE`.
        since: the first point is the one that contains this time.
        until: the last point is the one that contains the time before.
        step_s: length of a point; rounded up to one that consists of full buckets.
        revision: None: all revisions.

    Raises NameLookupError for an unknown device, ConfigError for an invalid span or too many points, and DatabaseError.

    """
    begin_s, end_s, chosen_s = since.timestamp(), until.timestamp(), allowed_step_s(step_s)
    if begin_s >= end_s:
        raise ConfigError(f"since {since:%Y-%m-%d %H:%M} must be before until {until:%Y-%m-%d %H:%M}")
    if (end_s - begin_s) / chosen_s > _MAX_POINTS:
        raise ConfigError(f"a step of {chosen_s} s gives more than {_MAX_POINTS} points; choose a longer step")
    with database.reading() as session:
        device = find_named_device(session, subject) if isinstance(subject, str) else None
        if isinstance(subject, str):
            cohort = None if device is None or device.cohort_id is None else session.get(CohortRow, device.cohort_id)
        else:
            cohort = find_cohort(session, subject)
        if cohort is None:
            return Trend(cohort=None, exits=(), step_s=chosen_s, points=())
        device_id = None if device is None else device.id
        buckets = _read_buckets(session, device_id, cohort.id, revision, begin_s=begin_s, end_s=end_s)
        registration = session.get(RegistrationRow, cohort.id)
        address = address_of(cohort)
    count = exits_of(packed for _, _, packed in buckets) if registration is None else len(registration.exits)
    names = tuple(map(str, range(count))) if registration is None else tuple(registration.exits)
    points = tuple(_points(buckets, chosen_s, count)) if buckets else ()
    return Trend(cohort=address, exits=names, step_s=chosen_s, points=points)


def allowed_step_s(step_s: float) -> int:
    """Return the shortest step that consists of full buckets and is not shorter than `step_s`."""
    return next((step for step in _STEPS_S if step >= step_s), math.ceil(step_s / _DAY_S) * _DAY_S)


def _read_buckets(
    session: Session,
    device_id: int | None,
    cohort_id: int,
    revision: int | None,
    *,
    begin_s: float,
    end_s: float,
) -> list[_Bucket]:
    """Return the buckets of a device, or of a cohort, that overlap a span; one range of the primary key per width."""

    def conditions(table: _Table, width_s: int) -> list[ColumnElement[bool]]:
        found = [table.cohort_id == cohort_id, table.width_s == width_s]
        found += [table.begin_s > begin_s - width_s, table.begin_s < end_s]
        if not issubclass(table, CohortBucketRow):
            found.append(table.device_id == device_id)
        return found if revision is None else [*found, table.revision == revision]

    table = CohortBucketRow if device_id is None else DeviceBucketRow
    found: list[_Bucket] = []
    for width_s in WIDTHS_S:
        query = select(table.begin_s, table.counts).where(*conditions(table, width_s))
        found += [(width_s, begin, packed) for begin, packed in session.execute(query)]
        if device_id is not None:
            newest = open_buckets(session, *conditions(SeriesRow, width_s))
            found += [(width_s, bucket.begin_s, bucket.counts) for bucket in newest]
    return found


def _points(buckets: Sequence[_Bucket], step_s: int, exits: int) -> Iterator[TrendPoint]:
    """Yield the points of buckets, oldest first; a bucket inside the span of a longer one belongs to that point."""
    spans: dict[int, set[int]] = {}  # length -> begins
    for width_s, begin_s, _ in buckets:
        span_s = max(width_s, step_s)
        spans.setdefault(span_s, set()).add(begin_s // span_s * span_s)
    longest_first = sorted(spans, reverse=True)
    points: dict[tuple[int, int], list[bytes]] = {}
    for _, begin_s, packed in buckets:
        for span_s in longest_first:
            if (start_s := begin_s // span_s * span_s) in spans[span_s]:
                points.setdefault((start_s, span_s), []).append(packed)
                break
    spans_in_order = sorted(points)
    parts = [points[span] for span in spans_in_order]
    groups = [index for index, part in enumerate(parts) for _ in part]
    counts = sum_groups(unpack_rows([one for part in parts for one in part], exits), groups, len(parts))
    histograms = np.stack([latency_histograms(one) for one in counts])
    by_exit = estimate_latencies(histograms.reshape(-1, BIN_COUNT))
    in_all = estimate_latencies(histograms.sum(axis=1))
    for index, (start_s, span_s) in enumerate(spans_in_order):
        exit_counts = exited(counts[index])
        yield TrendPoint(
            begin=datetime.fromtimestamp(start_s, timezone.utc),
            span_s=span_s,
            samples=sum(exit_counts),
            failed=int(counts[index][-1]),
            exited=exit_counts,
            latency=in_all[index],
            exit_latency=tuple(by_exit[index * exits : (index + 1) * exits]),
        )

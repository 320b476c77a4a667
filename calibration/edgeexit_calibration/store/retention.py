"""How long the database keeps what, and which buckets of time are merged when. Pure data and functions, no I/O."""

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

DAY_S: Final = 86400
_Days = Annotated[int, msgspec.Meta(ge=1)]
WIDTHS_S: Final = (900, 3600, DAY_S)
"""Lengths of buckets."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long the database keeps what."""

    device_quarters_days: _Days = 1
    """Age in days at which buckets of devices of 900 s are merged into those of an hour."""
    device_hours_days: _Days = 14
    """Age at which buckets of devices of an hour are merged into those of a day."""
    device_days_days: _Days = 400
    """Age at which buckets of devices are deleted."""
    cohort_quarters_days: _Days = 30
    """Age at which buckets of cohorts of 900 s are merged into those of an hour."""
    cohort_hours_days: _Days = 400
    """Age at which buckets of cohorts of an hour are merged into those of a day, which stay for ever."""
    events_days: _Days = 400
    """Age at which events are deleted that are no decisions about policies or devices."""
    samples_days: _Days = 400
    """Age at which audited samples are deleted, except the newest 20,000 of a cohort."""
    max_samples: Annotated[int, msgspec.Meta(ge=20_000)] = 1_000_000
    """Maximum number of audited samples of a cohort; the newest ones stay."""
    series_days: _Days = 90
    """Time without a report after which the counters of a start of an agent are no longer compared with new ones."""
    numbers_days: _Days = 400
    """Age at which the numbers of audits, and of starts without reports, are deleted."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Maximum size of the database: beyond it, the oldest buckets of devices are deleted, then the oldest samples."""


class Merge(NamedTuple):
    """Buckets of one length that become part of longer ones."""

    narrow_s: int
    wide_s: int
    before_s: int
    """Buckets that begin before this Unix time are merged; a multiple of `wide_s`."""


def device_merges(retention: Retention, *, now_s: float) -> tuple[Merge, ...]:
    """Return which buckets of devices are due to be merged."""
    return _merges((retention.device_quarters_days, retention.device_hours_days), now_s=now_s)


def cohort_merges(retention: Retention, *, now_s: float) -> tuple[Merge, ...]:
    """Return which buckets of cohorts are due to be merged."""
    return _merges((retention.cohort_quarters_days, retention.cohort_hours_days), now_s=now_s)


def _merges(ages_days: Sequence[int], *, now_s: float) -> tuple[Merge, ...]:
    """Return a merge per age: of buckets whose wide bucket has ended that long ago, so that it is complete."""
    pairs = zip(WIDTHS_S, WIDTHS_S[1:], ages_days, strict=False)
    return tuple(Merge(narrow, wide, int((now_s - days * DAY_S) // wide) * wide) for narrow, wide, days in pairs)

"""In which bucket of time the counts of a report belong. Pure functions, no clock.

Clocks of devices are wrong, so a time is the arrival of a report, minus the uptime in it, plus the uptime at which
something was counted. The older a bucket is, the wider it is.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

MAX_AGE_S: Final = 30 * 86400.0
"""Counts that seem to be older belong to the bucket of this age."""
_DAY_S: Final = 86400.0
_FORTNIGHT_S: Final = 14 * _DAY_S
Span = tuple[int, int]
"""Width in s, and Unix time of the begin in s, of a bucket."""
_WIDTHS: Final = (900.0, 3600.0, _DAY_S)
"""Width of a bucket in s, below an age of a day, below a fortnight, and above it."""


def buckets_at(started_at: Sequence[float], uptime_s: Sequence[float], *, now_s: float) -> list[Span]:
    """Return the bucket for each report.

    The time is never in the future, and never more than `MAX_AGE_S` ago.

    Args:
        started_at: Unix times in s at which the agents started.
        uptime_s: uptimes in the reports.
        now_s: Unix time of the arrival in s.

    """
    times = np.clip(np.add(started_at, uptime_s), now_s - MAX_AGE_S, now_s)
    age_s = now_s - times
    narrow, middle, wide = _WIDTHS
    widths = np.where(age_s < _DAY_S, narrow, np.where(age_s < _FORTNIGHT_S, middle, wide))
    begins = np.floor(times / widths) * widths
    return list(zip(widths.astype(np.int64).tolist(), begins.astype(np.int64).tolist(), strict=True))

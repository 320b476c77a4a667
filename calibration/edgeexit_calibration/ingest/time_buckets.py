"""In which bucket of time the counts of a report belong. Pure functions, no clock.

Clocks of devices are wrong, so a time is the arrival of a report, minus the uptime in it, plus the uptime at which
something was counted. The narrower the bucket, the sooner it is merged into a wider one.
"""

from typing import Final

MAX_AGE_S: Final = 30 * 86400.0
"""Counts that seem to be older belong to the bucket of this age."""
_WIDTHS: Final = ((86400.0, 900), (14 * 86400.0, 3600))
"""(age below which it applies, width of a bucket), both in s."""
_WIDEST: Final = 86400


def time_of(uptime_s: float, *, started_at: float, now_s: float) -> float:
    """Return the Unix time in s at which an agent that started at `started_at` had this uptime.

    Never in the future, and never more than `MAX_AGE_S` ago.
    """
    return max(min(started_at + uptime_s, now_s), now_s - MAX_AGE_S)


def bucket_at(time_s: float, *, now_s: float) -> tuple[int, int]:
    """Return (width in s, Unix time of the begin in s) of the bucket for a time."""
    age_s = now_s - time_s
    width = next((width for limit, width in _WIDTHS if age_s < limit), _WIDEST)
    return width, int(time_s // width) * width

"""Bootstrap intervals: how far figures of these samples may be from those of all inputs like them.

Percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13): a figure is worked
out on many resamples, each as many samples drawn with replacement, and the middle 95 % of what comes out is the
interval. It cannot see what did not occur: a share of 0 or 1 has no width. numpy only, for a device has no scipy.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 1000

_TAILS: Final = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))  # in percent
_DRAWS_AT_ONCE: Final = 2**20

_Values = npt.NDArray[np.float64]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of the samples at hand, and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def ratio_intervals(numerators: _Values, denominators: _Values, *, seed: int = 0) -> tuple[Interval, ...]:
    """Return sum(numerators) / sum(denominators) over the samples, column by column, each with its interval.

    A mean has ones for its denominators. Both stand over the same resampled samples, and one seed resamples any table
    of N samples alike, so what is compared is compared in pairs. Resamples whose denominators sum to 0 say nothing and
    are left out.

    Args:
        numerators: [N, M].
        denominators: [N, M], nowhere below 0 and in each column somewhere above it.
        seed: of the resampling.

    """
    columns = numerators.shape[1]
    both = np.hstack([numerators, denominators])
    sums = np.concatenate([counts.astype(np.float64) @ both for counts in _counts(len(both), seed)])
    found = []
    for m in range(columns):
        over, under = sums[:, m], sums[:, columns + m]
        value = numerators[:, m].sum() / denominators[:, m].sum()
        found.append(_interval(float(value), over[under > 0] / under[under > 0]))
    return tuple(found)


def percentile_interval(values: _Values, percent: float, *, seed: int = 0) -> Interval:
    """Return a percentile of values [N], interpolated as `numpy.percentile` does, with its interval.

    No resample need be made: the r-th smallest of N draws with replacement stands at place floor(N U) of the sorted
    values, where U, the r-th smallest of N uniform numbers, is Beta(r, N + 1 - r) distributed.
    """
    ordered, count = np.sort(values), len(values)
    place = percent / 100 * (count - 1)
    below = int(place)
    generator = np.random.default_rng(seed)
    lower = generator.beta(below + 1, count - below, size=RESAMPLES)
    estimates = ordered[_places(lower, count)]
    if place > below:  # the next larger draw is the smallest of those left, uniform above this one
        upper = lower + (1 - lower) * generator.beta(1, count - below - 1, size=RESAMPLES)
        estimates = estimates + (place - below) * (ordered[_places(upper, count)] - estimates)
    return _interval(float(np.percentile(ordered, percent)), estimates)


def _counts(samples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield how often each of `samples` is drawn, [R, N] at a time, until there are `RESAMPLES` rows."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // samples)
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = generator.integers(samples, size=(rows, samples)) + samples * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * samples).reshape(rows, samples)


def _places(uniform: _Values, count: int) -> npt.NDArray[np.int64]:
    return np.minimum((uniform * count).astype(np.int64), count - 1)


def _interval(value: float, estimates: _Values) -> Interval:
    low, high = np.percentile(estimates, _TAILS)
    return Interval(value=value, low=float(low), high=float(high))

"""Bootstrap confidence intervals of means, ratios and percentiles.

Percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13): the statistic is
computed on many resamples, each N samples drawn with replacement, and the middle 95 % of the results are the interval.
A fraction of 0 or 1 gets an interval of width 0. This module uses only numpy, because devices have no scipy.
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
"""Limits the memory of the resamples that are drawn together."""

_Values = npt.NDArray[np.float64]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A statistic of a set of samples, and its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float


def ratio_intervals(numerators: _Values, denominators: _Values, *, seed: int = 0) -> tuple[Interval, ...]:
    """Return sum(numerators) / sum(denominators) over the samples, per column, each with its interval.

    A mean is a ratio whose denominators are ones. Numerator and denominator use the same resample, and the same seed
    gives the same resamples for any table of N samples, so comparisons are paired. Resamples whose denominators sum to
    0 are left out.

    Args:
        numerators: [N, M].
        denominators: [N, M], not negative, with at least one positive value in each column.
        seed: seed of the resampling.

    """
    columns = numerators.shape[1]
    both = np.hstack([numerators, denominators])
    sums = np.concatenate([counts.astype(np.float64) @ both for counts in _counts(len(both), seed)])
    intervals = []
    for m in range(columns):
        numerator, denominator = sums[:, m], sums[:, columns + m]
        value = numerators[:, m].sum() / denominators[:, m].sum()
        intervals.append(_interval(float(value), numerator[denominator > 0] / denominator[denominator > 0]))
    return tuple(intervals)


def percentile_interval(values: _Values, percent: float, *, seed: int = 0) -> Interval:
    """Return a percentile of values [N], interpolated like `numpy.percentile`, with its interval.

    The resamples need not be drawn: the r-th smallest of N draws with replacement is the sorted value with index
    floor(N U), where U, the r-th smallest of N uniform numbers, has the distribution Beta(r, N + 1 - r).
    """
    ordered, count = np.sort(values), len(values)
    position = percent / 100 * (count - 1)
    below = int(position)
    generator = np.random.default_rng(seed)
    lower = generator.beta(below + 1, count - below, size=RESAMPLES)
    estimates = ordered[_indices(lower, count)]
    if position > below:  # the next draw is the smallest of the remaining ones, which are uniform above `lower`
        upper = lower + (1 - lower) * generator.beta(1, count - below - 1, size=RESAMPLES)
        estimates = estimates + (position - below) * (ordered[_indices(upper, count)] - estimates)
    return _interval(float(np.percentile(ordered, percent)), estimates)


def _counts(samples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield arrays [R, N]: how often each resample contains each sample. All arrays together have `RESAMPLES` rows."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // samples)
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = generator.integers(samples, size=(rows, samples)) + samples * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * samples).reshape(rows, samples)


def _indices(uniform: _Values, count: int) -> npt.NDArray[np.int64]:
    return np.minimum((uniform * count).astype(np.int64), count - 1)


def _interval(value: float, estimates: _Values) -> Interval:
    low, high = np.percentile(estimates, _TAILS)
    return Interval(value=value, low=float(low), high=float(high))

"""What buckets of time contain: sums of packed counts, the exit mix, and latencies from histograms."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.latency import BIN_COUNT, bin_centre_ms, bin_edge_ms
from edgeexit.wire import SCORE_BINS
from edgeexit_calibration.store.counts import PER_EXIT, Counts, unpack_counts, width_of

_CENTRES: Final = np.array([bin_centre_ms(index) for index in range(BIN_COUNT)])
_LOWEST_MS: Final = bin_edge_ms(1) / 2
"""Lower edge of the first bin on a logarithmic scale."""


class LatencyEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of samples, from histogram bins of half an octave, so accurate to about 20 %."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


def sum_counts(packed: Iterable[bytes], exits: int) -> Counts:
    """Return the sum [62 K + 1] of packed counts; those with another number of exits than K are left out."""
    total = np.zeros(width_of(exits), np.int64)
    for one in packed:
        if one[0] == exits:
            total += unpack_counts(one)
    return total


def exits_of(packed: Iterable[bytes]) -> int:
    """Return the highest number of exits in packed counts, 0 without any."""
    return max((one[0] for one in packed), default=0)


def exited(counts: Counts) -> tuple[int, ...]:
    """Return the number of samples that exited at each exit [K]."""
    return tuple(int(value) for value in counts[1:-1:PER_EXIT])


def latency_histograms(counts: Counts) -> npt.NDArray[np.int64]:
    """Return the histogram of the latency per exit [K, 40]."""
    return counts[:-1].reshape(-1, PER_EXIT)[:, 2 + SCORE_BINS :]


def mean_latency_ms(histogram: npt.NDArray[np.int64]) -> float | None:
    """Return the mean of a histogram [40] in ms, or None if it is empty."""
    samples = int(histogram.sum())
    return float(histogram @ _CENTRES) / samples if samples else None


def estimate_latency(histogram: npt.NDArray[np.int64]) -> LatencyEstimate | None:
    """Return mean and quantiles of a histogram [40], or None if it is empty."""
    mean_ms = mean_latency_ms(histogram)
    if mean_ms is None:
        return None
    p50_ms, p90_ms, p99_ms = _quantiles(histogram, (0.5, 0.9, 0.99))
    return LatencyEstimate(mean_ms=mean_ms, p50_ms=p50_ms, p90_ms=p90_ms, p99_ms=p99_ms)


def _quantiles(histogram: npt.NDArray[np.int64], fractions: Sequence[float]) -> list[float]:
    """Return quantiles in ms, interpolated inside a bin on a logarithmic scale."""
    cumulative = np.cumsum(histogram)
    values = []
    for fraction in fractions:
        rank = fraction * cumulative[-1]
        index = int(np.searchsorted(cumulative, rank))
        below = cumulative[index] - histogram[index]
        low, high = max(bin_edge_ms(index), _LOWEST_MS), bin_edge_ms(index + 1)
        values.append(float(low * (high / low) ** ((rank - below) / histogram[index])))
    return values

"""What buckets of time contain: the exit mix, and latencies from histograms."""

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.latency import BIN_COUNT, bin_centre_ms, bin_edge_ms
from edgeexit.wire import SCORE_BINS
from edgeexit.wire.counter_array import PER_EXIT, Counts

_CENTRES: Final = np.array([bin_centre_ms(index) for index in range(BIN_COUNT)])
_EDGES: Final = np.array([bin_edge_ms(1) / 2, *(bin_edge_ms(index) for index in range(1, BIN_COUNT + 1))])
"""Edges of the bins; the first one stands for 0, which a logarithmic scale does not have."""


class LatencyEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of samples, from histogram bins of half an octave, so accurate to about 20 %."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


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


def estimate_latencies(histograms: npt.NDArray[np.int64]) -> list[LatencyEstimate | None]:
    """Return mean and quantiles of histograms [N, 40]; None for an empty one."""
    cumulative = np.cumsum(histograms, axis=1)
    samples = cumulative[:, -1]
    divisor = np.maximum(samples, 1)
    columns = [histograms @ _CENTRES / divisor, *(_quantile(histograms, cumulative, q) for q in (0.5, 0.9, 0.99))]
    return [
        LatencyEstimate(mean_ms=mean_ms, p50_ms=p50_ms, p90_ms=p90_ms, p99_ms=p99_ms) if count else None
        for count, mean_ms, p50_ms, p90_ms, p99_ms in zip(samples.tolist(), *(c.tolist() for c in columns), strict=True)
    ]


def _quantile(
    histograms: npt.NDArray[np.int64], cumulative: npt.NDArray[np.int64], fraction: float
) -> npt.NDArray[np.float64]:
    """Return a quantile [N] of histograms [N, 40] in ms, interpolated inside a bin on a logarithmic scale."""
    rank = fraction * cumulative[:, -1:]
    index = np.argmax(cumulative >= rank, axis=1)[:, None]
    inside = np.take_along_axis(histograms, index, axis=1)
    below = np.take_along_axis(cumulative, index, axis=1) - inside
    position = ((rank - below) / np.maximum(inside, 1))[:, 0]
    low, high = _EDGES[index[:, 0]], _EDGES[index[:, 0] + 1]
    return np.asarray(low * (high / low) ** position, np.float64)

"""Latency as data: log-bin histograms on the wire, and the profile of a bundle on a machine."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

BIN_COUNT: Final = 40
_FIRST_EDGE_MS: Final = 0.01
_BINS_PER_OCTAVE: Final = 2

# The fewest queries behind which MLPerf LoadGen tells these percentiles; ours are plain ones over all samples.
_P90_FLOOR: Final = 64
_P99_FLOOR: Final = 662


def bin_of(latency_ms: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the histogram bin [B] of each latency [B] in ms: half-octave bins from 10 us to 10 s, ends open."""
    octaves = np.log2(np.maximum(latency_ms, _FIRST_EDGE_MS) / _FIRST_EDGE_MS)
    return np.minimum((octaves * _BINS_PER_OCTAVE).astype(np.int64), BIN_COUNT - 1)


def bin_centre_ms(index: int) -> float:
    """Return the geometric centre of a bin in ms."""
    return float(_FIRST_EDGE_MS * 2 ** ((index + 0.5) / _BINS_PER_OCTAVE))


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """Mean and percentiles of a set of latencies; a percentile with too few samples behind it is null."""

    samples: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None


def summarise(latencies_ms: Sequence[float] | npt.NDArray[np.float64]) -> LatencySummary:
    """Summarise at least one latency in ms; no p90 below 64 samples and no p99 below 662."""
    values = np.asarray(latencies_ms, dtype=np.float64)
    count = len(values)
    p50, p90, p99 = (round(float(value), 6) for value in np.percentile(values, (50, 90, 99)))
    return LatencySummary(
        samples=count,
        mean_ms=round(float(values.mean()), 6),
        p50_ms=p50,
        p90_ms=p90 if count >= _P90_FLOOR else None,
        p99_ms=p99 if count >= _P99_FLOOR else None,
    )


class StageProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Steady-state latency of one stage, and its raw samples in microseconds."""

    name: str
    latency: LatencySummary
    raw_us: tuple[int, ...] = ()


class LatencyProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle costs on one machine; `profile.json` in a bundle, `up/profile` on the wire."""

    bundle: str
    machine: str
    """Architecture and processor, as the machine names itself."""
    runtime: str
    """Name and version, e.g. `onnxruntime 1.23.2`."""
    threads: int
    batch: int
    cold_load_ms: float
    """Opening every stage in a fresh backend."""
    first_run_ms: float
    """The first full-depth inference after that."""
    stages: tuple[StageProfile, ...]
    end_to_end: LatencySummary | None = None
    """A sample's whole latency under `policy`, decision included."""
    policy: str | None = None
    exit_rates: tuple[float, ...] | None = None
    """[K] exit mix of the end-to-end run."""

    @property
    def cumulative_ms(self) -> tuple[float, ...]:
        """[K] mean cost in ms of leaving at each exit: the stages up to it."""
        return tuple(float(cost) for cost in np.cumsum([stage.latency.mean_ms for stage in self.stages]))

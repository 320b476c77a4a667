"""Latency as data: log-bin histograms on the wire, summaries, and the profile of a bundle on a machine."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.telemetry.reading import Reading, Telemetry

BIN_COUNT: Final = 40
_FIRST_EDGE_MS: Final = 0.01
_BINS_PER_OCTAVE: Final = 2

_CONFIDENCE: Final = 0.99


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
    """The plain median of the samples."""
    p90_ms: float | None
    """MLPerf LoadGen's early-stopping estimate (`estimate_percentile`), no plain one; null below 64 samples."""
    p99_ms: float | None
    """The same for 99 %. Null below 662 samples."""


def summarise(latencies_ms: Sequence[float] | npt.NDArray[np.float64]) -> LatencySummary:
    """Summarise at least one latency in ms."""
    values = np.asarray(latencies_ms, dtype=np.float64)
    p90, p99 = estimate_percentile(values, 90), estimate_percentile(values, 99)
    return LatencySummary(
        samples=len(values),
        mean_ms=round(float(values.mean()), 6),
        p50_ms=round(float(np.median(values)), 6),
        p90_ms=None if p90 is None else round(p90, 6),
        p99_ms=None if p99 is None else round(p99, 6),
    )


def estimate_percentile(values: npt.NDArray[np.float64], percent: float) -> float | None:
    """Return MLPerf LoadGen's early-stopping estimate of a percentile of `values` [N], or None where N is too small.

    It is the value that is not below the true percentile with 99 % confidence: so many of the highest are left out as
    may be (`overlatency_allowed`), and the highest of the others is told. It comes down to the plain percentile as
    samples are added. MLPerf Inference, loadgen/results.cc, `PerformanceSummary::EarlyStopping`, scenario SingleStream,
    whose confidence (0.99) and tolerance (0) these are.
    """
    allowed = overlatency_allowed(len(values), percent)
    if allowed == 0:
        return None
    place = len(values) - allowed
    return float(np.partition(values, place)[place])


def overlatency_allowed(samples: int, percent: float) -> int:
    """Return how many of so many samples may lie at or above the estimate of a percentile; 0: too few to tell one.

    The largest t with P(Binomial(samples, 1 - percent/100) <= t) <= 0.01: a percentile that was really higher would so
    rarely leave so few samples above it. LoadGen finds the same t by the least h = samples - t that each t needs
    (loadgen/early_stopping.cc, `MinPassingQueriesFinder`). At t = 0 it tells nothing, which makes its floors: 64
    samples for 90 %, 662 for 99 %.
    """
    over = 1 - percent / 100
    # Past the mean the sum is near 1/2 and more, so t lies below it.
    counts = np.arange(int(samples * over) + 1)
    log_steps = np.log((samples - counts[:-1]) / (counts[:-1] + 1) * (over / (1 - over)))
    log_terms = samples * np.log1p(-over) + np.concatenate([[0.0], np.cumsum(log_steps)])
    # Terms too small for a double are 0, and count for nothing beside 0.01.
    allowed = np.searchsorted(np.cumsum(np.exp(log_terms)), 1 - _CONFIDENCE, side="right") - 1
    return max(int(allowed), 0)


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a machine got slower or faster while it was measured."""

    ratio: float
    """Latency in the last quarter over the first: geometric means of the medians of blocks. Those of the run's parts
    (stages, end to end) multiplied."""
    low: float
    """99 % interval of the ratio, from blocks of the run: the noise that it has to stand out of."""
    high: float
    drifted: bool
    """The ratio is more than 5 % from 1, and its interval does not hold 1."""


class StageProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Steady-state latency of one stage, and its raw samples in microseconds."""

    name: str
    latency: LatencySummary
    """Readout included, decision not, with every stage forced to run."""
    raw_us: tuple[int, ...] = ()
    """At most 1000 of the samples, evenly over the run; none on the wire."""
    readout_ms: float | None = None
    """What softmax, top 2 and entropy add to the stage: median difference with and without, in turns. Null: the
    backend cannot leave them out."""
    readout_interval_ms: tuple[float, float] | None = None
    """95 % bootstrap interval of `readout_ms`; it may reach below 0 where the readout drowns in the noise."""
    decision: LatencySummary | None = None
    """The policy's decision after this stage, among the samples that reached it; null without a policy."""


class ExitPath(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of the samples went that left at one exit, under the policy."""

    exit: str
    latency: LatencySummary
    stages_ms: tuple[float, ...]
    """Mean of each stage up to the exit, readout included."""
    decisions_ms: float
    """Mean of all decisions on the way."""
    staging_ms: float
    """Mean of what is neither stage nor decision: checking inputs, handing over, collecting the answer."""
    raw_us: tuple[int, ...] = ()


class ProfilePhase(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the run, in seconds since its steady state began."""

    name: str
    start_s: float
    end_s: float


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
    """From the call to the answer under `policy`, decisions included: a sample's, or that of a batch's last one."""
    policy: str | None = None
    exit_rates: tuple[float, ...] | None = None
    """[K] exit mix of the end-to-end run."""
    end_to_end_raw_us: tuple[int, ...] = ()
    """As the stages' raw samples."""
    paths: tuple[ExitPath, ...] = ()
    """The exits that samples took in the end-to-end run; empty for batches, whose samples share their stages."""
    drift: Drift | None = None
    """Of the first stage, which every inference runs, over both runs; null where that is too short to tell."""
    settings: dict[str, str] = {}
    """What the machine was set to: governor, power mode, highest clock, page cache at the cold load ..."""
    phases: tuple[ProfilePhase, ...] = ()
    telemetry: Telemetry | None = None
    """What the board told over both runs; null in profiles of earlier versions."""
    readings: tuple[Reading, ...] = ()
    """At most 120 of the board's readings; none on the wire."""
    energy_per_inference_mj: float | None = None
    """Mean power of the whole board over the end-to-end run by its inferences a second, idle power included; null
    where no rail carries the whole board."""
    invalid: str | None = None
    """Why these figures must not be used as costs (the machine was throttled, say); null: they may."""

    @property
    def cumulative_ms(self) -> tuple[float, ...]:
        """[K] mean cost in ms of leaving at each exit: the stages up to it."""
        return tuple(float(cost) for cost in np.cumsum([stage.latency.mean_ms for stage in self.stages]))

    def without_raw(self) -> "LatencyProfile":
        """Return the profile as it goes over the wire: no raw samples, no single readings."""
        return msgspec.structs.replace(
            self,
            stages=tuple(msgspec.structs.replace(stage, raw_us=()) for stage in self.stages),
            paths=tuple(msgspec.structs.replace(path, raw_us=()) for path in self.paths),
            end_to_end_raw_us=(),
            readings=(),
        )

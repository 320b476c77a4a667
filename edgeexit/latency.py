"""Latency data: logarithmic histograms for messages, summaries, and the profile of a bundle on a machine."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.telemetry.load import MachineLoad
from edgeexit.telemetry.reading import Reading, Telemetry

BIN_COUNT: Final = 40
_FIRST_EDGE_MS: Final = 0.01
_BINS_PER_OCTAVE: Final = 2

_CONFIDENCE: Final = 0.99


def bin_of(latency_ms: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the histogram bin [B] of each latency [B] in ms: half-octave bins from 10 us to 10 s.

    The first bin includes all lower latencies, and the last one all higher latencies.
    """
    octaves = np.log2(np.maximum(latency_ms, _FIRST_EDGE_MS) / _FIRST_EDGE_MS)
    return np.minimum((octaves * _BINS_PER_OCTAVE).astype(np.int64), BIN_COUNT - 1)


def bin_edge_ms(index: int) -> float:
    """Return the lower edge of a bin in ms; 0 for the first bin."""
    return 0.0 if index == 0 else float(_FIRST_EDGE_MS * 2 ** (index / _BINS_PER_OCTAVE))


def bin_centre_ms(index: int) -> float:
    """Return the geometric centre of a bin in ms."""
    return float(_FIRST_EDGE_MS * 2 ** ((index + 0.5) / _BINS_PER_OCTAVE))


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """Mean and percentiles of a set of latencies; a percentile is null if there are too few samples for it."""

    samples: int
    mean_ms: float
    p50_ms: float
    """The median of the samples, not an upper bound like the other percentiles."""
    p90_ms: float | None
    """MLPerf LoadGen's early-stopping estimate, see `estimate_percentile`; null below 64 samples."""
    p99_ms: float | None
    """The same for 99 %; null below 662 samples."""


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
    """Return MLPerf LoadGen's early-stopping estimate of a percentile of `values` [N], or None if N is too small.

    With 99 % confidence, the true percentile is not above the estimate. The estimate is the t-th highest value, where
    t is `overlatency_allowed`; it approaches the plain percentile as N grows. Source: MLPerf Inference,
    loadgen/results.cc, `PerformanceSummary::EarlyStopping`, scenario SingleStream, with its confidence (0.99) and
    tolerance (0).
    """
    allowed = overlatency_allowed(len(values), percent)
    if allowed == 0:
        return None
    index = len(values) - allowed
    return float(np.partition(values, index)[index])


def overlatency_allowed(samples: int, percent: float) -> int:
    """Return how many samples may lie at or above the estimate of a percentile; 0 if there are too few samples.

    This is the largest t with P(Binomial(samples, 1 - percent/100) <= t) <= 0.01: if the true percentile were above the
    estimate, the probability that at most t samples lie at or above the estimate would be at most 0.01. LoadGen finds
    the same t from the minimum h = samples - t for each t (loadgen/early_stopping.cc, `MinPassingQueriesFinder`). For
    t = 0 there is no estimate. Therefore the minimum is 64 samples for 90 %, and 662 for 99 %.
    """
    over = 1 - percent / 100
    # Beyond the mean the cumulative probability is about 1/2 or more, so t is below the mean.
    counts = np.arange(int(samples * over) + 1)
    log_steps = np.log((samples - counts[:-1]) / (counts[:-1] + 1) * (over / (1 - over)))
    log_terms = samples * np.log1p(-over) + np.concatenate([[0.0], np.cumsum(log_steps)])
    # Terms that underflow to 0 are negligible compared with 0.01.
    allowed = np.searchsorted(np.cumsum(np.exp(log_terms)), 1 - _CONFIDENCE, side="right") - 1
    return max(int(allowed), 0)


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the machine became slower or faster during the measurement."""

    ratio: float
    """Latency in the last quarter of the run divided by that in the first (geometric means of block medians). The
    ratios of the phases (stages, end to end) are multiplied."""
    low: float
    """Lower end of the 99 % confidence interval of the ratio, from blocks of the run."""
    high: float
    """Upper end of the interval."""
    drifted: bool
    """True if the ratio differs from 1 by more than 5 % and the interval does not contain 1."""


class StageProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Steady-state latency of one stage."""

    name: str
    latency: LatencySummary
    """Includes the readout and excludes the decision; every stage is forced to run."""
    raw_us: tuple[int, ...] = ()
    """At most 1000 samples in microseconds, evenly spaced over the run; empty in messages."""
    readout_ms: float | None = None
    """Time that softmax, top 2 and entropy add to the stage: median difference of runs with and without them. Null if
    the backend cannot run the stage without them."""
    readout_interval_ms: tuple[float, float] | None = None
    """95 % bootstrap interval of `readout_ms`; its lower end is negative if the noise exceeds the readout's time."""
    decision: LatencySummary | None = None
    """Duration of the policy's decision after this stage, in the inferences that reached it; null without a policy."""


class ExitPath(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the latency of the samples that exit at one exit, under the policy."""

    exit: str
    latency: LatencySummary
    stages_ms: tuple[float, ...]
    """Mean duration of each stage up to the exit, including its readout."""
    decisions_ms: float
    """Mean total duration of the decisions."""
    overhead_ms: float
    """Mean of the remaining time: input checks, copies, assembling the result."""
    raw_us: tuple[int, ...] = ()
    """As `StageProfile.raw_us`."""


class ProfilePhase(msgspec.Struct, frozen=True, kw_only=True):
    """Start and end of a phase of the measurement, in seconds since the start of the first phase's warm-up."""

    name: str
    start_s: float
    end_s: float


class LatencyProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The latency of a bundle on one machine: `profile.json` in a bundle, `up/profile` as a message."""

    bundle: str
    """Digest of the bundle."""
    machine: str
    """Architecture and processor model."""
    runtime: str
    """Name and version of the runtime, e.g. `onnxruntime 1.23.2`."""
    threads: int
    """Threads of ONNX Runtime within an operator; 0: one per core."""
    batch: int
    """Samples per inference."""
    cold_load_ms: float
    """Time to open every stage in a new backend."""
    first_run_ms: float
    """Time of the first full-depth inference."""
    stages: tuple[StageProfile, ...]
    end_to_end: LatencySummary | None = None
    """Latency under `policy`, from the call to the prediction of the last sample of the batch, decisions included."""
    policy: str | None = None
    """Kind of the policy."""
    exit_rates: tuple[float, ...] | None = None
    """[K] fraction of samples that exit at each exit in the end-to-end phase."""
    end_to_end_raw_us: tuple[int, ...] = ()
    """As `StageProfile.raw_us`."""
    paths: tuple[ExitPath, ...] = ()
    """One entry per exit taken in the end-to-end phase; empty for batches above 1, whose samples share stages."""
    drift: Drift | None = None
    """Drift of the first stage, which every inference runs, over both phases; null if these are too short."""
    settings: dict[str, str] = {}
    """Settings of the machine, e.g. governor, power mode, maximum clock."""
    warnings: tuple[str, ...] = ()
    """One line per difference from the bundle's target, e.g. a runtime that replaces the target's."""
    phases: tuple[ProfilePhase, ...] = ()
    telemetry: Telemetry | None = None
    """Summary of the sensor readings in both phases and during the measurement of the readouts; null in profiles of
    earlier versions."""
    readings: tuple[Reading, ...] = ()
    """At most 120 sensor readings; empty in messages."""
    energy_per_inference_mj: float | None = None
    """Energy of the whole board per inference in the end-to-end phase, idle power included: mean power divided by
    inferences per second. Null if no rail measures the whole board."""
    load: MachineLoad | None = None
    """What else the machine did in both phases; null in profiles of earlier versions."""
    invalid: tuple[str, ...] = ()
    """Reasons why no costs are taken from the latencies, e.g. because the machine was throttled or busy; empty for a
    valid profile. A mean above the highest percentile is a reason in every profile, wherever it was written."""

    def __post_init__(self) -> None:
        """Add the reasons that follow from the latencies themselves."""
        found = tuple(reason for reason in _means_above_percentiles(self) if reason not in self.invalid)
        msgspec.structs.force_setattr(self, "invalid", self.invalid + found)

    @property
    def cumulative_ms(self) -> tuple[float, ...]:
        """[K] mean cost in ms of each exit: the total of the stages up to it."""
        return tuple(float(cost) for cost in np.cumsum([stage.latency.mean_ms for stage in self.stages]))

    def without_raw(self) -> "LatencyProfile":
        """Return the profile as it is sent in messages: without raw samples and single readings."""
        return msgspec.structs.replace(
            self,
            stages=tuple(msgspec.structs.replace(stage, raw_us=()) for stage in self.stages),
            paths=tuple(msgspec.structs.replace(path, raw_us=()) for path in self.paths),
            end_to_end_raw_us=(),
            readings=(),
        )


def _means_above_percentiles(profile: LatencyProfile) -> Iterator[str]:
    """Yield a reason for each part of the inference whose mean is above its highest percentile.

    A few inferences then took so long that they outweigh all others together, as when the machine was suspended. Such a
    mean says nothing about another run. Without a p99, the p90 is used, except end to end: there, a tenth of the
    samples may take a much deeper exit than the others.
    """
    parts = [(f"stage '{stage.name}'", stage.latency) for stage in profile.stages]
    parts += [(f"samples that exit at '{path.exit}'", path.latency) for path in profile.paths]
    limits = [(name, latency, latency.p90_ms if latency.p99_ms is None else latency.p99_ms) for name, latency in parts]
    if profile.end_to_end is not None:
        limits.append(("end to end", profile.end_to_end, profile.end_to_end.p99_ms))
    for name, latency, limit in limits:
        if limit is not None and latency.mean_ms > limit:
            percentile = "p90" if latency.p99_ms is None else "p99"
            yield (
                f"{name}: the mean, {latency.mean_ms:.3g} ms, is above the {percentile}, {limit:.3g} ms, because a few "
                "inferences took very long"
            )

"""Profiles a bundle on this machine: cold load, first run, and steady state per stage and end to end."""

import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.backends.selection import make_backend
from edgeexit.bundle import Bundle
from edgeexit.datasets import Dataset, Inputs
from edgeexit.errors import DataError
from edgeexit.latency import LatencyProfile, ProfilePhase, StageProfile, summarise
from edgeexit.policies import Policy, exit_rates
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.runtime.profiling.drift import find_drift
from edgeexit.runtime.profiling.inference_times import (
    InferenceTimes,
    decisions_ms,
    exit_paths,
    exits_taken,
    latencies_ms,
    times_of,
)
from edgeexit.runtime.profiling.machine import machine_name, usable_cores
from edgeexit.runtime.profiling.readout import ReadoutCost, measure_readouts
from edgeexit.runtime.profiling.steady import SteadyRun, run_steady, subsample_us
from edgeexit.runtime.profiling.validity import reasons_of_drift, reasons_of_machine
from edgeexit.runtime.runner import Runner
from edgeexit.targets import load_target
from edgeexit.telemetry import LoadMeter, Probe, Reading, Sampler, energy_mj, find_probe
from edgeexit.telemetry.clocks import nominal_clocks

_MS_PER_S: Final = 1e3
_MAX_READINGS: Final = 120
_READOUT_FRACTION: Final = 0.5
"""Fraction of `seconds` for measuring the readouts of all stages together."""

StageTimes = tuple[float, ...]
"""[K] in ms."""


def profile_bundle(
    bundle: Bundle,
    *,
    policy: Policy | None = None,
    dataset: Dataset | None = None,
    seconds: float = 3.0,
    batch: int = 1,
    probe: Probe | None = None,
    progress: Progress = NO_PROGRESS,
) -> LatencyProfile:
    """Measure all stages for `seconds`, inferences under `policy` for `seconds`, and the readouts for half as long.

    If the machine was throttled or busy, or its speed drifted, the profile is invalid: it has the reasons, and
    `Bundle.costs` does not use it.

    Args:
        bundle: the bundle to measure.
        policy: policy of the end-to-end phase; None: measure the stages only.
        dataset: samples with a realistic mix of exits; default: the bundle's golden samples.
        seconds: duration of each phase, after its warm-up of 0.2 s.
        batch: samples per inference.
        probe: reads the board's sensors; default: the probe that the bundle's target names.
        progress: receives the name of each step.

    Raises DataError if there are fewer samples than `batch`, or if `batch` exceeds the backend's maximum, and the
    errors of `Runner`.

    """
    target = load_target(bundle.manifest.target)
    probe = probe or find_probe(target.telemetry)
    batches = _batches(dataset or Dataset(inputs=bundle.golden().inputs), batch)
    settings = probe.settings() | {"cores": str(usable_cores()), "cold load": "files in the page cache"}
    progress.step("cold load and first run")
    backend = make_backend(bundle)
    started = time.perf_counter()
    with Runner(bundle, backend=backend) as runner:
        cold_load_ms = (time.perf_counter() - started) * _MS_PER_S
        if batch > backend.max_batch:
            raise DataError(
                f"a batch of {batch} samples exceeds the backend's maximum, {backend.max_batch}; choose a smaller batch"
            )
        started = time.perf_counter()
        runner.infer_every_exit(batches[0])
        first_run_ms = (time.perf_counter() - started) * _MS_PER_S
        with Sampler(probe) as sampler:
            meter, started_s = LoadMeter(), time.monotonic()
            progress.step("stages")
            forced = run_steady(seconds, lambda turn: runner.infer_every_exit(batches[turn % len(batches)]).stage_ms)
            end_to_end: SteadyRun[InferenceTimes] | None = None
            if policy is not None:
                progress.step("end to end")
                end_to_end = _end_to_end(runner, batches, policy, seconds)
            load = meter.stop()
            progress.step("readouts")
            readouts = measure_readouts(bundle, backend, batches[0], seconds=_READOUT_FRACTION * seconds)
        telemetry = sampler.summary()
        warnings = tuple(runner.warnings)
    drift = find_drift(*_first_stage_ms(forced, end_to_end))
    profile = LatencyProfile(
        bundle=bundle.digest,
        machine=machine_name(),
        runtime=backend.description,
        threads=target.session.threads,
        batch=batch,
        cold_load_ms=round(cold_load_ms, 3),
        first_run_ms=round(first_run_ms, 3),
        stages=_stages([stage.name for stage in bundle.manifest.stages], forced.results, end_to_end, readouts),
        drift=drift,
        settings=settings,
        warnings=warnings,
        phases=(
            _phase("stages", forced, started_s),
            *(() if end_to_end is None else (_phase("end to end", end_to_end, started_s),)),
        ),
        telemetry=telemetry,
        readings=_subsample(sampler.readings, started_s),
        load=load,
        invalid=(*reasons_of_machine(load, telemetry, nominal_clocks()), *reasons_of_drift(drift)),
    )
    if policy is None or end_to_end is None:
        return profile
    latencies = latencies_ms(end_to_end.results)
    return msgspec.structs.replace(
        profile,
        policy=policy.kind,
        end_to_end=summarise(latencies),
        end_to_end_raw_us=subsample_us(latencies),
        exit_rates=exit_rates(exits_taken(end_to_end.results), policy.exits),
        paths=exit_paths(end_to_end.results, bundle.manifest.exits) if batch == 1 else (),
        energy_per_inference_mj=_energy_per_inference_mj(sampler.readings, end_to_end),
    )


def _batches(dataset: Dataset, size: int) -> list[Inputs]:
    """Return full batches; samples after the last full batch are left out."""
    if not 1 <= size <= len(dataset):
        raise DataError(
            f"the number of samples, {len(dataset)}, is too small for a batch of {size}; "
            "give more samples, or choose a smaller batch"
        )
    return [batch for batch in dataset.batches(size) if len(next(iter(batch.values()))) == size]


def _end_to_end(runner: Runner, batches: Sequence[Inputs], policy: Policy, seconds: float) -> SteadyRun[InferenceTimes]:
    return run_steady(seconds, lambda turn: times_of(runner.infer(batches[turn % len(batches)], policy=policy)))


def _stages(
    names: Sequence[str],
    forced: Sequence[StageTimes],
    end_to_end: SteadyRun[InferenceTimes] | None,
    readouts: Sequence[ReadoutCost | None],
) -> tuple[StageProfile, ...]:
    columns = np.array(forced)
    stages = []
    for k, (name, readout) in enumerate(zip(names, readouts, strict=True)):
        decisions = [] if end_to_end is None else decisions_ms(end_to_end.results, k)
        stages.append(
            StageProfile(
                name=name,
                latency=summarise(columns[:, k]),
                raw_us=subsample_us(columns[:, k]),
                readout_ms=None if readout is None else readout.value_ms,
                readout_interval_ms=None if readout is None else readout.interval_ms,
                decision=summarise(decisions) if decisions else None,
            )
        )
    return tuple(stages)


def _first_stage_ms(
    forced: SteadyRun[StageTimes], end_to_end: SteadyRun[InferenceTimes] | None
) -> list[npt.NDArray[np.float64]]:
    """Return the durations of the first stage in each phase: every inference runs it, whatever its exit."""
    phases = [[stages[0] for stages in forced.results]]
    if end_to_end is not None:
        phases.append([times.stage_ms[0] for times in end_to_end.results])
    return [np.array(phase) for phase in phases]


def _phase(name: str, run: SteadyRun[StageTimes] | SteadyRun[InferenceTimes], started_s: float) -> ProfilePhase:
    return ProfilePhase(name=name, start_s=round(run.start_s - started_s, 3), end_s=round(run.end_s - started_s, 3))


def _subsample(readings: Sequence[Reading], started_s: float) -> tuple[Reading, ...]:
    """Return at most 120 readings, evenly spaced over the run; their times count from the start of the first phase."""
    step = -(-len(readings) // _MAX_READINGS) or 1
    return tuple(
        msgspec.structs.replace(reading, monotonic_s=round(reading.monotonic_s - started_s, 3))
        for reading in readings[::step]
    )


def _energy_per_inference_mj(readings: Iterable[Reading], end_to_end: SteadyRun[InferenceTimes]) -> float | None:
    """Return the board's energy per inference in the end-to-end phase; None if the power is not known."""
    known = [reading for reading in readings if reading.total_mw is not None]
    within = [reading for reading in known if end_to_end.start_s <= reading.monotonic_s <= end_to_end.end_s]
    energy = energy_mj(within)
    if energy is None:
        return None
    mean_mw = energy / (within[-1].monotonic_s - within[0].monotonic_s)
    return round(mean_mw * (end_to_end.end_s - end_to_end.start_s) / len(end_to_end.results), 6)

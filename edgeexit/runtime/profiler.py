"""Measure a bundle on this machine: cold load, first run, steady state, stage by stage and end to end."""

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
from edgeexit.runtime.profiling.machine import machine_name, usable_cores
from edgeexit.runtime.profiling.mix import (
    Timed,
    decisions_ms,
    exit_paths,
    exits_taken,
    timed,
    whole_ms,
)
from edgeexit.runtime.profiling.readout import ReadoutCost, measure_readouts
from edgeexit.runtime.profiling.steady import Steady, steady, thinned_us
from edgeexit.runtime.runner import Runner
from edgeexit.targets import load_target
from edgeexit.telemetry import Probe, Reading, Sampler, Telemetry, energy_mj, find_probe

_MS_PER_S: Final = 1e3
_READINGS_KEPT: Final = 120
_READOUT_SHARE: Final = 0.5
"""Of `seconds`, for the readouts of all stages together."""

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
    """Measure every stage for `seconds`, whole inferences under `policy` for as long, and the readouts for half of it.

    A board that was throttled meanwhile makes the profile invalid, and `Bundle.costs` does not use it then.

    Args:
        bundle: what to measure.
        policy: None: stages only.
        dataset: samples with a real mix of exits; default: the bundle's golden ones.
        seconds: of steady state, after a warm-up of 0.2 s.
        batch: samples of an inference.
        probe: reads the board; default: the one that the bundle's target names.
        progress: receives the name of each step.

    Raises DataError for a batch that the samples do not fill or that is more than runs at a time.

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
            raise DataError(f"batches of {batch} samples are more than the {backend.max_batch} that run at a time")
        started = time.perf_counter()
        runner.infer_every_exit(batches[0])
        first_run_ms = (time.perf_counter() - started) * _MS_PER_S
        with Sampler(probe) as sampler:
            began = time.monotonic()
            progress.step("stages")
            forced = steady(seconds, lambda turn: runner.infer_every_exit(batches[turn % len(batches)]).stage_ms)
            mix: Steady[Timed] | None = None
            if policy is not None:
                progress.step("end to end")
                mix = _end_to_end(runner, batches, policy, seconds)
            progress.step("readouts")
            readouts = measure_readouts(bundle, backend, batches[0], seconds=_READOUT_SHARE * seconds)
        telemetry = sampler.summary()
        settings |= {f"remark {number}": warning for number, warning in enumerate(runner.warnings, 1)}
    profile = LatencyProfile(
        bundle=bundle.digest,
        machine=machine_name(),
        runtime=backend.description,
        threads=target.session.threads,
        batch=batch,
        cold_load_ms=round(cold_load_ms, 3),
        first_run_ms=round(first_run_ms, 3),
        stages=_stages([stage.name for stage in bundle.manifest.stages], forced.results, mix, readouts),
        drift=find_drift(*_first_stage_ms(forced, mix)),
        settings=settings,
        phases=(_phase("stages", forced, began), *(() if mix is None else (_phase("end to end", mix, began),))),
        telemetry=telemetry,
        readings=_thinned(sampler.readings, began),
        invalid=_why_invalid(telemetry),
    )
    if policy is None or mix is None:
        return profile
    latencies = whole_ms(mix.results)
    return msgspec.structs.replace(
        profile,
        policy=policy.kind,
        end_to_end=summarise(latencies),
        end_to_end_raw_us=thinned_us(latencies),
        exit_rates=exit_rates(exits_taken(mix.results), policy.exits),
        paths=exit_paths(mix.results, bundle.manifest.exits) if batch == 1 else (),
        energy_per_inference_mj=_energy_per_inference_mj(sampler.readings, mix),
    )


def _batches(dataset: Dataset, size: int) -> list[Inputs]:
    """Return full batches; samples beyond the last full one are left out."""
    if not 1 <= size <= len(dataset):
        raise DataError(f"{len(dataset)} samples do not make a batch of {size}; give more of them, or a smaller batch")
    return [batch for batch in dataset.batches(size) if len(next(iter(batch.values()))) == size]


def _end_to_end(runner: Runner, batches: Sequence[Inputs], policy: Policy, seconds: float) -> Steady[Timed]:
    return steady(seconds, lambda turn: timed(runner.infer(batches[turn % len(batches)], policy=policy)))


def _stages(
    names: Sequence[str],
    forced: Sequence[StageTimes],
    mix: Steady[Timed] | None,
    readouts: Sequence[ReadoutCost | None],
) -> tuple[StageProfile, ...]:
    columns = np.array(forced)
    stages = []
    for k, (name, readout) in enumerate(zip(names, readouts, strict=True)):
        decisions = [] if mix is None else decisions_ms(mix.results, k)
        stages.append(
            StageProfile(
                name=name,
                latency=summarise(columns[:, k]),
                raw_us=thinned_us(columns[:, k]),
                readout_ms=None if readout is None else readout.value_ms,
                readout_interval_ms=None if readout is None else readout.interval_ms,
                decision=summarise(decisions) if decisions else None,
            )
        )
    return tuple(stages)


def _first_stage_ms(forced: Steady[StageTimes], mix: Steady[Timed] | None) -> list[npt.NDArray[np.float64]]:
    """Return what the first stage took in each part: every inference runs it, whatever its exit."""
    parts = [[stages[0] for stages in forced.results]]
    if mix is not None:
        parts.append([one.stage_ms[0] for one in mix.results])
    return [np.array(part) for part in parts]


def _phase(name: str, run: Steady[StageTimes] | Steady[Timed], began: float) -> ProfilePhase:
    return ProfilePhase(name=name, start_s=round(run.start_s - began, 3), end_s=round(run.end_s - began, 3))


def _thinned(readings: Sequence[Reading], began: float) -> tuple[Reading, ...]:
    """Return readings evenly over the run, timed from when its steady state began."""
    step = -(-len(readings) // _READINGS_KEPT) or 1
    return tuple(
        msgspec.structs.replace(reading, monotonic_s=round(reading.monotonic_s - began, 3))
        for reading in readings[::step]
    )


def _energy_per_inference_mj(readings: Iterable[Reading], mix: Steady[Timed]) -> float | None:
    """Return the board's mean power in the end-to-end run by its inferences a second; None where it is not known."""
    known = [reading for reading in readings if reading.total_mw is not None]
    within = [reading for reading in known if mix.start_s <= reading.monotonic_s <= mix.end_s]
    energy = energy_mj(within)
    if energy is None:
        return None
    mean_mw = energy / (within[-1].monotonic_s - within[0].monotonic_s)
    return round(mean_mw * (mix.end_s - mix.start_s) / len(mix.results), 6)


def _why_invalid(telemetry: Telemetry) -> str | None:
    if not telemetry.throttled:
        return None
    return f"the machine was throttled: {'; '.join(telemetry.reasons)}"

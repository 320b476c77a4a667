"""Measure a bundle on this machine: cold load, first run, steady state, stage by stage and end to end."""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeexit.bundle import Bundle
from edgeexit.datasets import Dataset
from edgeexit.latency import LatencyProfile, LatencySummary, StageProfile, summarise
from edgeexit.policies import AnyPolicy, exit_rates
from edgeexit.runtime.backend import make_backend
from edgeexit.runtime.runner import Runner
from edgeexit.targets import load_target

_WARM_UP_S = 0.2
_RAW_KEPT = 1000
_NS_PER_MS = 1e6


def profile_bundle(
    bundle: Bundle, *, policy: AnyPolicy | None = None, dataset: Dataset | None = None, seconds: float = 3.0
) -> LatencyProfile:
    """Measure every stage for `seconds`, then whole inferences under `policy` for as long; batch 1.

    Args:
        bundle: what to measure.
        policy: None: stages only.
        dataset: samples with a real mix of exits; default: the bundle's golden ones.
        seconds: of steady state, after a warm-up of 0.2 s.

    """
    samples = dataset or Dataset(inputs=bundle.golden().inputs)
    singles = list(samples.batches(1))
    started = time.perf_counter_ns()
    with Runner(bundle, backend=(backend := make_backend(bundle))) as runner:
        cold_load_ms = (time.perf_counter_ns() - started) / _NS_PER_MS
        started = time.perf_counter_ns()
        runner.infer_every_exit(singles[0])
        first_run_ms = (time.perf_counter_ns() - started) / _NS_PER_MS

        _steady(_WARM_UP_S, lambda turn: runner.infer_every_exit(singles[turn % len(singles)]))
        stage_ms: list[tuple[float, ...]] = []
        _steady(seconds, lambda turn: stage_ms.append(runner.infer_every_exit(singles[turn % len(singles)]).stage_ms))
        columns = np.array(stage_ms)

        end_to_end: LatencySummary | None = None
        rates: tuple[float, ...] | None = None
        if policy is not None:
            whole_ms: list[float] = []
            exits: list[int] = []

            def one(turn: int) -> None:
                result = runner.infer(singles[turn % len(singles)], policy=policy)
                whole_ms.append(float(result.latency_ms[0]))
                exits.append(int(result.exits[0]))

            _steady(seconds, one)
            end_to_end = summarise(whole_ms)
            rates = exit_rates(np.array(exits, dtype=np.int64), policy.exits)
        return LatencyProfile(
            bundle=bundle.digest,
            machine=machine_name(),
            runtime=backend.description,
            threads=load_target(bundle.manifest.target).session.threads,
            batch=1,
            cold_load_ms=round(cold_load_ms, 3),
            first_run_ms=round(first_run_ms, 3),
            stages=tuple(
                StageProfile(name=stage.name, latency=summarise(columns[:, k]), raw_us=_thinned_us(columns[:, k]))
                for k, stage in enumerate(bundle.manifest.stages)
            ),
            end_to_end=end_to_end,
            policy=None if policy is None else policy.kind,
            exit_rates=rates,
        )


def machine_name() -> str:
    """Return architecture and processor, as the machine names itself."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        model = platform.processor()
    return f"{platform.machine()} {model}".strip()


def _steady(seconds: float, run: Callable[[int], object]) -> None:
    """Call `run` with 0, 1, 2 ... for at least `seconds`, at least once."""
    deadline = time.perf_counter_ns() + seconds * 1000 * _NS_PER_MS
    turn = 0
    while turn == 0 or time.perf_counter_ns() < deadline:
        run(turn)
        turn += 1


def _thinned_us(latencies_ms: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return at most `_RAW_KEPT` raw samples in microseconds, evenly over the run."""
    step = -(-len(latencies_ms) // _RAW_KEPT)
    return tuple(round(value * 1000) for value in latencies_ms[::step])

"""Shows where the slowest calls of staged inference spend their time, and what Python costs after a stage.

    python scripts/bench/staged_tail.py [--rounds 40] [--json]

The network and the samples are those of `staged.py`; no sample exits early. Three tables:

- Percentiles of the parts of `Runner.infer` in microseconds: its stages, its decisions, and the rest of it; beside them
  the full graph, which runs in alternation.
- Events per call of `Runner.infer`: page faults, garbage collections, and involuntary context switches (another program
  ran on the core); and its duration divided by that of the full graph, over the calls without a switch.
- Durations of single steps in microseconds, p50: `warm` in a loop, and `cold` after 6 MiB of other data were read. A
  stage, which reads its weights, leaves caches that are between the two.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import argparse
import functools
import gc
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from staged_models import EXITS, IMAGE, Models, make_images, make_models, make_runner

from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner

_SAMPLES, _REPEATS = 40, 1000
_EVICTED_BYTES: Final = 6 << 20
_PERCENTILES: Final = (50, 90, 99)
_NEVER: Final = Confidence(temperatures=(1.0,) * len(EXITS), thresholds=(None,) * (len(EXITS) - 1))
_Table = dict[str, dict[str, float]]


class _Call(NamedTuple):
    result: Any
    us: float
    faults: int
    switches: int
    collections: int


def _measured(call: Callable[[], object]) -> _Call:
    before, collections = resource.getrusage(resource.RUSAGE_THREAD), _collections()
    started_ns = time.perf_counter_ns()
    result = call()
    us = (time.perf_counter_ns() - started_ns) / 1e3
    after = resource.getrusage(resource.RUSAGE_THREAD)
    return _Call(
        result,
        us,
        after.ru_minflt - before.ru_minflt,
        after.ru_nivcsw - before.ru_nivcsw,
        _collections() - collections,
    )


def _collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def _parts(models: Models, runner: Runner, rounds: int) -> tuple[_Table, _Table]:
    """Return the percentiles of the parts, and the events."""
    images = make_images(_SAMPLES, 100)[:, None]
    graph_calls = [functools.partial(models.full.run, None, {IMAGE: image}) for image in images]
    calls = [functools.partial(runner.infer, {IMAGE: image}, policy=_NEVER) for image in images]
    full, staged = [], []
    for _ in range(rounds):
        full += [_measured(call) for call in graph_calls]
        staged += [_measured(call) for call in calls]
    us = np.array([call.us for call in staged])
    stages = np.array([sum(call.result.stage_ms) * 1e3 for call in staged])
    decisions = np.array([sum(call.result.decide_ms) * 1e3 for call in staged])
    columns = {
        "full graph": np.array([call.us for call in full]),
        "infer": us,
        "its stages": stages,
        "its decisions": decisions,
        "the rest of it": us - stages - decisions,
    }
    parts = {name: {f"p{p}": float(np.percentile(column, p)) for p in _PERCENTILES} for name, column in columns.items()}
    quiet, quiet_full = (
        np.array([call.us for call in found if not call.switches] or [np.nan]) for found in (staged, full)
    )
    events = {
        f"{name} per call": {"": float(np.mean([getattr(call, name) for call in staged]))}
        for name in ("faults", "collections", "switches")
    }
    events |= {
        f"infer / full graph without switches, p{p}": {
            "": float(np.percentile(quiet, p) / np.percentile(quiet_full, p))
        }
        for p in _PERCENTILES
    }
    return parts, events


def _steps(models: Models, runner: Runner) -> _Table:
    """Return the durations of single steps with warm and with cold caches."""
    image, readout = make_images(1, 100), np.array([[1, 0.5, 0.2, 1.1]], dtype=np.float32)
    state, session = _NEVER.initial_state(1), models.full
    evicted = np.ones(_EVICTED_BYTES // 8, dtype=np.int64)[::8]  # one number per cache line
    steps: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "Policy.decide, batch of one": lambda: _NEVER.decide(0, readout, state),
        "Policy.decide_single": lambda: _NEVER.decide_single(0, readout, state),
        "Runner.check": lambda: runner.check({IMAGE: image}),
        "numpy array of one number": lambda: np.array((1,), dtype=np.int64),
    }
    if hasattr(session._sess, "is_webgpu_graph_capture_enabled"):  # noqa: SLF001 - since 1.32
        steps["run_with_iobinding's question about WebGPU"] = session._sess.is_webgpu_graph_capture_enabled  # noqa: SLF001
    cold: dict[str, list[int]] = {name: [] for name in steps}
    warm: dict[str, list[int]] = {name: [] for name in steps}
    for _ in range(_REPEATS):
        for name, step in steps.items():
            evicted.sum()
            cold[name].append(_ns(step))
            step()
            warm[name].append(_ns(step))
    nothing = {"warm": np.median(warm.pop("nothing")), "cold": np.median(cold.pop("nothing"))}
    return {
        name: {
            "warm": float(np.median(warm[name]) - nothing["warm"]) / 1e3,
            "cold": float(np.median(cold[name]) - nothing["cold"]) / 1e3,
        }
        for name in cold
    }


def _ns(step: Callable[[], object]) -> int:
    started_ns = time.perf_counter_ns()
    step()
    return time.perf_counter_ns() - started_ns


def _print_table(table: _Table) -> None:
    columns = list(next(iter(table.values())))
    print(f"\n{'':<46}" + "".join(f"{column:>10}" for column in columns))
    for name, row in table.items():
        print(f"{name:<46}" + "".join(f"{value:>10.3f}" if value < 10 else f"{value:>10.1f}" for value in row.values()))  # noqa: PLR2004


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="number of rounds")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        with make_runner(models) as runner:
            _parts(models, runner, 2)
            gc.collect()
            gc.freeze()  # so that no collection scans the objects of the set-up
            parts, events = _parts(models, runner, arguments.rounds)
            steps = _steps(models, runner)
    if arguments.json:
        print(json.dumps({"parts_us": parts, "events": events, "steps_us": steps}, indent=2))
    else:
        for table in (parts, events, steps):
            _print_table(table)


if __name__ == "__main__":
    main()

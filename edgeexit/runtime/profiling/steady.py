"""Measures the steady state as trtexec does: a warm-up, then runs until the time is up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgeexit.runtime.gc_freeze import gc_frozen

WARM_UP_S: Final = 0.2
MAX_RAW_SAMPLES: Final = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class SteadyRun(Generic[T]):
    """The results of the runs after the warm-up, and when they ran."""

    results: list[T]
    start_s: float
    """Start in seconds of `time.monotonic`; `end_s` has the same clock."""
    end_s: float


def run_steady(seconds: float, run: Callable[[int], T]) -> SteadyRun[T]:
    """Call `run` with 0, 1, 2, ... for `seconds`, at least once, after a warm-up of 0.2 s whose results are dropped."""
    with gc_frozen():
        _repeat(WARM_UP_S, run)
        start = time.monotonic()
        results = _repeat(seconds, run)
        return SteadyRun(results, start, time.monotonic())


def subsample_us(latencies_ms: Sequence[float] | npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return at most `MAX_RAW_SAMPLES` latencies in microseconds, evenly spaced over the run."""
    step = -(-len(latencies_ms) // MAX_RAW_SAMPLES) or 1
    return tuple(round(value * 1000) for value in latencies_ms[::step])


def _repeat(seconds: float, run: Callable[[int], T]) -> list[T]:
    deadline = time.perf_counter() + seconds
    results = [run(0)]
    while time.perf_counter() < deadline:
        results.append(run(len(results)))
    return results

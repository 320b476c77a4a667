"""Steady state as trtexec measures it: a warm-up, then runs until the time is up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgeexit.runtime.garbage import undisturbed

WARM_UP_S: Final = 0.2
RAW_KEPT: Final = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class Steady(Generic[T]):
    """What the runs after the warm-up gave, and when they ran."""

    results: list[T]
    start_s: float
    """Monotonic, as `end_s`."""
    end_s: float


def steady(seconds: float, run: Callable[[int], T]) -> Steady[T]:
    """Call `run` with 0, 1, 2 ...: for 0.2 s in vain, and then, from 0 again, for at least `seconds`, at least once."""
    with undisturbed():
        _repeat(WARM_UP_S, run)
        start = time.monotonic()
        results = _repeat(seconds, run)
        return Steady(results, start, time.monotonic())


def thinned_us(latencies_ms: Sequence[float] | npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return at most `RAW_KEPT` raw samples in microseconds, evenly over the run."""
    step = -(-len(latencies_ms) // RAW_KEPT) or 1
    return tuple(round(value * 1000) for value in latencies_ms[::step])


def _repeat(seconds: float, run: Callable[[int], T]) -> list[T]:
    deadline = time.perf_counter() + seconds
    results = [run(0)]
    while time.perf_counter() < deadline:
        results.append(run(len(results)))
    return results

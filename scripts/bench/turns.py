"""Runs calls in alternation in one process, and compares their times by ratios with bootstrap intervals."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]
"""[rounds, calls] seconds."""
_RESAMPLES = 1000
_WARM_UP = 2


class Ratio(NamedTuple):
    """A ratio, and its 95 % interval over resamplings of the rounds."""

    value: float
    low: float
    high: float


def run_in_alternation(variants: Mapping[str, Callable[[], Sequence[float]]], rounds: int) -> dict[str, Times]:
    """Run every variant once per round, in rotating order. Return name -> seconds of its calls [rounds, calls].

    So a disturbance affects all variants. The results of additional warm-up rounds are dropped.
    """
    gc.collect()
    gc.freeze()  # so that no collection scans the objects of the set-up during a measurement
    names = list(variants)
    times: dict[str, list[Sequence[float]]] = {name: [] for name in names}
    for number in range(-_WARM_UP, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds = variants[name]()
            if number >= 0:
                times[name].append(seconds)
    return {name: np.array(rows) for name, rows in times.items()}


def seconds_each(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Call each function once and return its duration in seconds."""
    durations = []
    for call in calls:
        started = time.perf_counter_ns()
        call()
        durations.append((time.perf_counter_ns() - started) * 1e-9)
    return durations


def ratio_of(by_round: npt.NDArray[np.float64]) -> Ratio:
    """Return the median over the rounds of `by_round` [rounds]."""
    return _resampled(len(by_round), lambda rounds: float(np.median(by_round[rounds])))


def median_ratio(one: Times, other: Times) -> Ratio:
    """Return the median over the rounds of the ratio of the medians of each round."""
    return ratio_of(np.median(one, axis=1) / np.median(other, axis=1))


def tail_ratio(one: Times, other: Times, percentile: float = 99) -> Ratio:
    """Return the ratio of the percentiles over all rounds; a single round has too few calls for a p99."""
    return _resampled(
        len(one),
        lambda rounds: float(np.percentile(one[rounds], percentile) / np.percentile(other[rounds], percentile)),
    )


def _resampled(rounds: int, statistic: Callable[[npt.NDArray[np.intp]], float]) -> Ratio:
    random = np.random.default_rng(0)
    drawn = [statistic(random.integers(rounds, size=rounds)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Ratio(statistic(np.arange(rounds)), float(low), float(high))

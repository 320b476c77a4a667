"""Contenders that take turns in one process, and what their times say: ratios, and how far noise moves them."""

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
    """A ratio, and the bounds within which 95 % of resamplings of the rounds put it."""

    value: float
    low: float
    high: float


def take_turns(contenders: Mapping[str, Callable[[], Sequence[float]]], rounds: int) -> dict[str, Times]:
    """Let every contender have its turn in every round, and another one begin each time; a turn returns seconds.

    A noisy moment so touches all of them. Rounds to warm up come on top and are left out.
    """
    gc.collect()
    gc.freeze()  # what setting up has left behind is looked through no more, whoever's turn it is
    names = list(contenders)
    times: dict[str, list[Sequence[float]]] = {name: [] for name in names}
    for number in range(-_WARM_UP, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turn = contenders[name]()
            if number >= 0:
                times[name].append(turn)
    return {name: np.array(rows) for name, rows in times.items()}


def seconds_each(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Call each once and return how long it took."""
    taken = []
    for call in calls:
        started = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - started) * 1e-9)
    return taken


def ratio_of(by_round: npt.NDArray[np.float64]) -> Ratio:
    """Return the median of the ratios [rounds] that every round gave by itself."""
    return _resampled(len(by_round), lambda rounds: float(np.median(by_round[rounds])))


def median_ratio(one: Times, other: Times) -> Ratio:
    """Return p50 to p50, round by round."""
    return ratio_of(np.median(one, axis=1) / np.median(other, axis=1))


def tail_ratio(one: Times, other: Times, percentile: float = 99) -> Ratio:
    """Return p99 to p99 over all rounds: one round has too few calls for a tail."""
    return _resampled(
        len(one),
        lambda rounds: float(np.percentile(one[rounds], percentile) / np.percentile(other[rounds], percentile)),
    )


def _resampled(rounds: int, statistic: Callable[[npt.NDArray[np.intp]], float]) -> Ratio:
    random = np.random.default_rng(0)
    drawn = [statistic(random.integers(rounds, size=rounds)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Ratio(statistic(np.arange(rounds)), float(low), float(high))

"""Finds reports whose counters no agent can have, for a whole batch at once. Pure functions of arrays.

An agent counts a sample that exits at exit k as reached at the exits up to k, in one bin of scores at each of these,
and in one bin of latency. A client may leave out histograms, so their sums may be lower than that, but not higher.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from edgeexit.wire import SCORE_BINS
from edgeexit.wire.counter_array import PER_EXIT, Counts

MAX_COUNT: Final = 2**53
"""Highest counter of a report: sums of a thousand series fit into 64 bits, and a double holds it exactly."""
_REACHED, _EXITED, _SCORES, _LATENCY = 0, 1, 2, 2 + SCORE_BINS
"""First column of each part of the counters of an exit; see `store.counts`."""


def contradictions(counts: npt.NDArray[np.int64]) -> list[str | None]:
    """Return for each row of non-negative counters [N, 62 K + 1] why no agent can have them, or None."""
    exits = counts[:, :-1].reshape(len(counts), -1, PER_EXIT)
    reached, exited = exits[:, :, _REACHED], exits[:, :, _EXITED]
    wrong = counts.max(axis=1, initial=0) > MAX_COUNT  # only below it, no sum of bins exceeds int64
    wrong |= (exited > reached).any(axis=1)
    wrong |= (reached[:, 1:] > (reached - exited)[:, :-1]).any(axis=1)
    wrong |= (exits[:, :, _SCORES:_LATENCY].sum(axis=2) > reached).any(axis=1)
    wrong |= (exits[:, :, _LATENCY:].sum(axis=2) > exited).any(axis=1)
    return [_explain(row) if is_wrong else None for row, is_wrong in zip(counts, wrong.tolist(), strict=True)]


def _explain(counts: Counts) -> str:
    """Return the first contradiction in the counters of one report [62 K + 1]."""
    if (highest := int(counts.max())) > MAX_COUNT:
        return f"report: counter {highest} is above 2^53"
    remaining = MAX_COUNT
    for k, one in enumerate(counts[:-1].reshape(-1, PER_EXIT)):
        reached, exited = int(one[_REACHED]), int(one[_EXITED])
        scores, latencies = int(one[_SCORES:_LATENCY].sum()), int(one[_LATENCY:].sum())
        found = f"report: exit {k} has {reached} samples reached and {exited} exited"
        if reached > remaining:
            return f"{found}, but the exits before it leave only {remaining}"
        if exited > reached:
            return f"{found}; more cannot exit than reach it"
        if scores > reached or latencies > exited:
            return f"{found}, but {scores} scores and {latencies} latencies"
        remaining = reached - exited
    raise AssertionError("the counters contradict nothing")

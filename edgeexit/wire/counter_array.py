"""The counters of a report as one array of integers: 62 numbers per exit, and the number of failed inferences.

The numbers of an exit are: reached, exited, 20 bins of scores, 40 bins of latency.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeexit.latency import BIN_COUNT
from edgeexit.wire.messages import SCORE_BINS, ExitCounters

PER_EXIT: Final = 2 + SCORE_BINS + BIN_COUNT
"""Numbers per exit."""
EXITED: Final = 1
SCORES: Final = 2
LATENCY: Final = 2 + SCORE_BINS
"""Where these stand among the numbers of an exit; reached is the first one."""

Counts = npt.NDArray[np.int64]
"""[62 K + 1] int64, of K exits."""


def width_of(exits: int) -> int:
    """Return the length of the array of a bundle with this number of exits."""
    return exits * PER_EXIT + 1


def counts_of_exits(exits: Sequence[ExitCounters], failed: int) -> Counts:
    """Return counters of exits and the number of failed inferences as an array [62 K + 1] int64."""
    parts = chain.from_iterable((one.reached, one.exited, *one.scores, *one.latency) for one in exits)
    return np.fromiter(chain(parts, (failed,)), np.int64, width_of(len(exits)))


def exit_counters(counts: Sequence[int]) -> tuple[ExitCounters, ...]:
    """Return the counters per exit of a list [62 K + 1]; its last number is that of failed inferences."""
    row = tuple(counts)  # its slices are tuples, too
    return tuple(
        ExitCounters(
            reached=row[place],
            exited=row[place + EXITED],
            scores=row[place + SCORES : place + LATENCY],
            latency=row[place + LATENCY : place + PER_EXIT],
        )
        for place in range(0, len(row) - 1, PER_EXIT)
    )

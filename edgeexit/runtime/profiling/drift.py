"""Whether latencies drift within a run, told apart from noise that comes in bursts."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeexit.latency import Drift

TOLERANCE: Final = 0.05
_BLOCKS: Final = 6
"""A quarter of the run: few enough that a block outlasts most disturbances, so that blocks are nearly independent."""
_LEAST_IN_BLOCK: Final = 8
_T_99: Final = 3.169
"""Student's t, two-sided 99 %, for 2 x 6 blocks: 10 degrees of freedom."""

_Values = npt.NDArray[np.float64]


def find_drift(latencies_ms: _Values) -> Drift | None:
    """Compare the last quarter of latencies [N], in the order in which they were measured, with the first.

    Each quarter is cut into 6 blocks of neighbouring samples, and the logarithms of the blocks' medians are compared
    by a t-test. Single samples would not do: what disturbs one disturbs its neighbours, so their noise looks much
    smaller than it is. None below 192 samples.
    """
    quarter = len(latencies_ms) // 4
    if quarter < _BLOCKS * _LEAST_IN_BLOCK:
        return None
    first, last = _log_medians(latencies_ms[:quarter]), _log_medians(latencies_ms[-quarter:])
    difference = float(last.mean() - first.mean())
    noise = _T_99 * math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / _BLOCKS)
    ratio, low, high = (math.exp(difference + side * noise) for side in (0, -1, 1))
    return Drift(
        ratio=round(ratio, 4),
        low=round(low, 4),
        high=round(high, 4),
        drifted=abs(ratio - 1) > TOLERANCE and not low <= 1 <= high,
    )


def _log_medians(latencies_ms: _Values) -> _Values:
    return np.log([np.median(block) for block in np.array_split(latencies_ms, _BLOCKS)])

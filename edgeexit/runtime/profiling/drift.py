"""Whether latencies drift within a run, told apart from noise that comes in bursts."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeexit.latency import Drift

TOLERANCE: Final = 0.05
_BLOCKS: Final = 6
"""A quarter of the run: few enough that a block outlasts most disturbances, so that blocks are nearly independent."""
_MIN_IN_BLOCK: Final = 8
_T_99: Final = 3.169
"""Student's t, two-sided 99 %, for the 2 x 6 blocks of one part: 10 degrees of freedom. For more parts a bit wide."""

_Values = npt.NDArray[np.float64]


def find_drift(*parts: _Values) -> Drift | None:
    """Compare the last quarter of each part's latencies [N], in the order in which they were measured, with the first.

    The parts' ratios are multiplied; parts are not compared with each other, for what runs before a stage, and whether
    probabilities are read behind it, make it faster or slower in one of them. Each quarter is cut into 6 blocks of
    neighbouring samples, and the logarithms of the blocks' medians are compared by a t-test. Single samples would not
    do: what disturbs one disturbs its neighbours, so their noise looks much smaller than it is. A part below 192
    samples is left out; None where all are.
    """
    quarters = [(part, len(part) // 4) for part in parts if len(part) // 4 >= _BLOCKS * _MIN_IN_BLOCK]
    if not quarters:
        return None
    ends = [(_log_medians(part[:quarter]), _log_medians(part[-quarter:])) for part, quarter in quarters]
    difference = float(sum(last.mean() - first.mean() for first, last in ends))
    noise = _T_99 * math.sqrt(sum(first.var(ddof=1) + last.var(ddof=1) for first, last in ends) / _BLOCKS)
    ratio, low, high = (math.exp(difference + side * noise) for side in (0, -1, 1))
    return Drift(
        ratio=round(ratio, 4),
        low=round(low, 4),
        high=round(high, 4),
        drifted=abs(ratio - 1) > TOLERANCE and not low <= 1 <= high,
    )


def _log_medians(latencies_ms: _Values) -> _Values:
    return np.log([np.median(block) for block in np.array_split(latencies_ms, _BLOCKS)])

"""Detects a drift of latencies within a run, in the presence of noise that comes in bursts."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeexit.latency import Drift

TOLERANCE: Final = 0.05
_BLOCKS: Final = 6
"""Blocks per quarter of a phase. Blocks this long outlast most disturbances, so they are nearly independent."""
_MIN_IN_BLOCK: Final = 8
_T_99: Final = 3.169
"""Student's t, two-sided 99 %, for the 2 x 6 blocks of one phase: 10 degrees of freedom.

Two phases have 20 degrees of freedom, and so a lower t; the test is then conservative."""

_Values = npt.NDArray[np.float64]


def find_drift(*phases: _Values) -> Drift | None:
    """Compare the last quarter of each phase with its first quarter; a phase is latencies [N] in order of measurement.

    The ratios of the phases are multiplied. Phases are not compared with each other, because a stage's latency also
    depends on what runs before it and on whether the policy reads probabilities. Each quarter is split into 6 blocks of
    neighbouring samples, and the logarithms of the blocks' medians are compared by a t-test. A test on single samples
    would underestimate the noise, because a disturbance affects neighbouring samples. Phases with fewer than 192
    samples are left out; the result is None if all are.
    """
    quarters = [(phase, len(phase) // 4) for phase in phases if len(phase) // 4 >= _BLOCKS * _MIN_IN_BLOCK]
    if not quarters:
        return None
    ends = [(_log_medians(phase[:quarter]), _log_medians(phase[-quarter:])) for phase, quarter in quarters]
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

"""The few numbers of an exit that a policy reads.

A readout is one row a sample: `[B, 4] float32` with the columns below. A policy that reads the whole probability vector
gets `[B, 4 + C]`: the C probabilities stand behind. A recording of every exit is `[N, K, 4]`, or `[N, K, 4 + C]`. To
segment, the numbers are averages over the pixels. The class index is exact in float32 up to 2**24 classes.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

TOP1: Final = 0  # class with the highest probability
P1: Final = 1  # its probability (max softmax of logits / T)
P2: Final = 2  # probability of the runner-up
ENTROPY: Final = 3  # natural-log entropy of the distribution, in nats
COLUMNS: Final = ("top1", "p1", "p2", "entropy")

_STORED: Final = "<f4"


def readouts_to_bytes(readouts: Array) -> bytes:
    """Return readouts [K, 4] as little-endian float32, row by row: the form in the calibrator's database."""
    return np.ascontiguousarray(readouts, dtype=_STORED).tobytes()


def readouts_from_bytes(content: bytes, exits: int) -> Array:
    """Return the readouts [N, K, 4] of N samples whose `readouts_to_bytes` are concatenated in `content`."""
    return np.frombuffer(content, dtype=_STORED).reshape(-1, exits, len(COLUMNS)).astype(np.float32)


def as_float32(numbers: npt.ArrayLike) -> Array:
    """Return numbers in float32; those too large for it become infinite, without a warning.

    A single number becomes an array of no dimensions, with which numpy computes faster than with a Python one.
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(numbers, dtype=np.float64).astype(np.float32)

"""Readouts: the four numbers per sample and exit that policies read.

A readout is `[B, 4] float32`: one row per sample, with the columns below. A policy that reads the probabilities of all
classes gets `[B, 4 + C]`: the C probabilities follow the four columns. A recording of all exits is `[N, K, 4]` or
`[N, K, 4 + C]`. For segmentation, the numbers are averages over the pixels. The class index is exact in float32 for up
to 2**24 classes.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

TOP1: Final = 0  # class with the highest probability
P1: Final = 1  # the highest probability (max softmax of logits / T)
P2: Final = 2  # the second highest probability
ENTROPY: Final = 3  # entropy of the probabilities, in nats
COLUMNS: Final = ("top1", "p1", "p2", "entropy")

_STORED: Final = "<f4"


class ExitReadout(NamedTuple):
    """What a stage computes from the logits of n samples at its exit."""

    readout: Array
    """[n, 4] float32."""
    probabilities: Array
    """[n, C] float32."""


def readouts_to_bytes(readouts: Array) -> bytes:
    """Return readouts [K, 4] as little-endian float32, row by row: the format in the calibrator's database."""
    return np.ascontiguousarray(readouts, dtype=_STORED).tobytes()


def readouts_from_bytes(content: bytes, exits: int) -> Array:
    """Return the readouts [N, K, 4] of N samples whose `readouts_to_bytes` are concatenated in `content`.

    Raises ValueError if the length of `content` is not a multiple of the bytes per sample.
    """
    return np.frombuffer(content, dtype=_STORED).reshape(-1, exits, len(COLUMNS)).astype(np.float32)


def as_float32(numbers: npt.ArrayLike) -> Array:
    """Return numbers in float32; numbers beyond its range become infinite, without a warning.

    A single number becomes a 0-dimensional array, with which numpy computes faster than with a Python float.
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(numbers, dtype=np.float64).astype(np.float32)

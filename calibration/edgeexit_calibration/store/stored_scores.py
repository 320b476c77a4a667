"""Scores, predictions and losses of audited samples as the database contains them: little-endian float32.

Per sample, [K, 2] scores and predictions of the policy, and for maps [K] fractions that differ from the final exit's.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from edgeexit.policies import Simulation
from edgeexit.policies.readout import Array

_SCORE: Final = 0
_PREDICTION: Final = 1
_STORED: Final = "<f4"


def scores_to_bytes(scores: Sequence[float], predictions: Sequence[int]) -> bytes:
    """Return the scores [K] in the range of float32 and the predictions [K], below 2^24, of one sample."""
    columns = np.empty((len(scores), 2), dtype=_STORED)
    columns[:, _SCORE] = scores
    columns[:, _PREDICTION] = predictions
    return columns.tobytes()


def scores_from_bytes(content: bytes, exits: int) -> Simulation:
    """Return scores and predictions [N, K] of N samples whose `scores_to_bytes` are concatenated in `content`.

    Raises ValueError if the length of `content` is not a multiple of the bytes per sample.
    """
    columns = np.frombuffer(content, dtype=_STORED).reshape(-1, exits, 2).astype(np.float32)
    return Simulation(columns[:, :, _SCORE].copy(), columns[:, :, _PREDICTION].astype(np.int64))


def differing_to_bytes(fractions: Sequence[float]) -> bytes:
    """Return the fractions [K] of the map of one sample that differ from the final exit's."""
    return np.asarray(fractions, dtype=_STORED).tobytes()


def differing_from_bytes(content: bytes, exits: int) -> Array:
    """Return the fractions [N, K] float32 of N samples whose `differing_to_bytes` are concatenated in `content`.

    Raises ValueError if the length of `content` is not a multiple of the bytes per sample.
    """
    return np.frombuffer(content, dtype=_STORED).reshape(-1, exits).astype(np.float32)

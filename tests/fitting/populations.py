"""Populations to fit on: inputs of varying difficulty, seen more sharply by deeper exits."""

import numpy as np

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.readout_dataset import read_out

COSTS = (1.0, 2.0, 3.0, 4.0)


def population(
    samples: int, seed: int, *, exits: int = 4, classes: int = 10, labels: bool = True, sharpness: float = 1.0
) -> ReadoutDataset:
    """Draw samples; exit k costs k + 1. `sharpness` above 1 makes exits too sure of themselves."""
    random = np.random.default_rng(seed)
    truth, difficulty = random.integers(0, classes, samples), random.exponential(1, samples) + 0.3
    logits = 0.7 * random.normal(size=(samples, exits, classes))
    for k in range(exits):
        logits[np.arange(samples), k, truth] += (2 + 2 * k) / difficulty
    return ReadoutDataset(
        readouts=read_out(sharpness * logits).astype(np.float32),
        costs=tuple(float(k + 1) for k in range(exits)),
        temperatures=(1.0,) * exits,
        labels=truth if labels else None,
    )

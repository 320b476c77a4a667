"""Readout datasets: random ones of varying difficulty, and small ones with given readouts."""

import msgspec
import numpy as np

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.exit_logits import ExitLogits

COSTS = (1.0, 2.0, 3.0, 4.0)


def population(
    samples: int, seed: int, *, exits: int = 4, classes: int = 10, labels: bool = True, sharpness: float = 1.0
) -> ReadoutDataset:
    """Draw a dataset whose deeper exits are more accurate; exit k costs k + 1; `sharpness` > 1: overconfident exits."""
    random = np.random.default_rng(seed)
    truth, difficulty = random.integers(0, classes, samples), random.exponential(1, samples) + 0.3
    logits = 0.7 * random.normal(size=(samples, exits, classes))
    for k in range(exits):
        logits[np.arange(samples), k, truth] += (2 + 2 * k) / difficulty
    return ReadoutDataset.from_logits(
        sharpness * logits, costs=tuple(float(k + 1) for k in range(exits)), labels=truth if labels else None
    )


def of_predictions(classes, p1, labels, entropy: float = 0.5) -> ReadoutDataset:
    """Return a dataset with these classes and top-1 probabilities [N][K]; exit k costs k + 1; there are 10 classes."""
    classes, p1 = np.array(classes), np.array(p1, dtype=float)
    samples, exits = classes.shape
    readouts = np.zeros((samples, exits, 4), dtype=np.float32)
    readouts[:, :, 0], readouts[:, :, 1], readouts[:, :, 3] = classes, p1, entropy
    logits = ExitLogits(np.zeros((samples, exits, 10), dtype=np.float32))
    return msgspec.structs.replace(_dataset(readouts, np.array(labels)), logits=logits)


def of_readouts(rows, *, labels=None, repeat: int = 1) -> ReadoutDataset:
    """Return a dataset with these readouts [N][K][4], each sample `repeat` times; exit k costs k + 1."""
    readouts = np.repeat(np.array(rows, dtype=np.float32), repeat, axis=0)
    return _dataset(readouts, None if labels is None else np.repeat(np.array(labels), repeat))


def readout(p1: float, p2: float, entropy: float = 0.5, top1: int = 0) -> list[float]:
    """Return the four columns of a readout."""
    return [top1, p1, p2, entropy]


def _dataset(readouts, labels) -> ReadoutDataset:
    exits = readouts.shape[1]
    costs = tuple(float(k + 1) for k in range(exits))
    return ReadoutDataset(readouts=readouts, costs=costs, temperatures=(1.0,) * exits, labels=labels)

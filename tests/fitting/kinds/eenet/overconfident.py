"""A dataset whose first exit is overconfident in one class."""

import msgspec
import numpy as np

from edgeexit.fitting import ReadoutDataset
from tests.fitting.populations import population


def overconfident_in_one_class(samples: int) -> ReadoutDataset:
    """Draw a dataset whose first exit is confident of class 0 on half of the samples, and mostly wrong there."""
    dataset = population(samples, seed=16, exits=3, classes=4)
    readouts, labels = dataset.readouts.copy(), dataset.labels
    assert labels is not None
    affected = np.random.default_rng(1).random(samples) < 0.5
    readouts[affected, 0, 0] = 0
    readouts[affected, 0, 1:3] = [0.97, 0.01]
    readouts[affected, 0, 3] = -(0.97 * np.log(0.97) + 3 * 0.01 * np.log(0.01))
    readouts[affected, 0, 4:] = [0.97, 0.01, 0.01, 0.01]
    return msgspec.structs.replace(dataset, readouts=readouts)

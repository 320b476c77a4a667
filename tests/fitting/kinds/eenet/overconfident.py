"""A dataset whose first exit is overconfident in one class."""

import numpy as np

from edgeexit.fitting import ReadoutDataset
from tests.fitting.populations import population


def overconfident_in_one_class(samples: int) -> ReadoutDataset:
    """Draw a dataset whose first exit is confident of class 0 on half of the samples, and mostly wrong there."""
    dataset = population(samples, seed=16, exits=3, classes=4)
    assert dataset.logits is not None
    logits = dataset.logits.array.copy()
    affected = np.random.default_rng(1).random(samples) < 0.5
    logits[affected, 0] = np.log([0.97, 0.01, 0.01, 0.01])
    return ReadoutDataset.from_logits(logits, costs=dataset.costs, labels=dataset.labels)

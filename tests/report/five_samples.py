"""A dataset of five samples and three exits, small enough to compute results by hand."""

import numpy as np

from edgeexit.fitting import ReadoutDataset

LABELS = (0, 1, 2, 0, 1)
PREDICTIONS = ((0, 0, 0), (0, 1, 1), (2, 2, 1), (1, 1, 0), (0, 0, 0))  # no exit is correct on the last sample
CONFIDENCES = ((0.9, 0.9, 0.9), (0.5, 0.9, 0.9), (0.9, 0.9, 0.6), (0.5, 0.5, 0.9), (0.5, 0.5, 0.5))
COSTS = (1.0, 2.0, 4.0)


def five_samples(*, labels: bool = True) -> ReadoutDataset:
    """Return the five samples; their readouts contain no probabilities of all classes."""
    readouts = np.zeros((5, 3, 4), dtype=np.float32)
    readouts[:, :, 0], readouts[:, :, 1] = PREDICTIONS, CONFIDENCES
    return ReadoutDataset(
        readouts=readouts, costs=COSTS, temperatures=(1.0,) * 3, labels=np.array(LABELS) if labels else None
    )

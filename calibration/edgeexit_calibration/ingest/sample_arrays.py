"""The samples of an audit as arrays: converted once, for the checks and for the database."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.policies import Simulation
from edgeexit.policies.readout import COLUMNS, ENTROPY, P1, P2, TOP1, Array
from edgeexit.wire import AuditedSample


class SampleArrays(NamedTuple):
    """n samples with K exits each."""

    readouts: Array
    """[n, K, 4]"""
    exits: npt.NDArray[np.int64]
    """[n] exit of each sample."""
    predictions: npt.NDArray[np.int64]
    """[n] class that was returned for each sample."""
    scored: Simulation | None
    """Scores and predictions of a policy that reads the probabilities of all classes, if all samples contain them."""
    differing: Array | None
    """[n, K] fractions of the maps that differ from the final exit's, if all samples contain them."""
    labels: npt.NDArray[np.int64]
    """[n] true class of each sample, -1 if it is not known."""


def arrays_of(samples: Sequence[AuditedSample]) -> SampleArrays:
    """Convert samples that have the same number of exits."""
    exits = [sample.exit for sample in samples]
    top1 = [sample.top1 for sample in samples]
    predictions = [
        classes[index] if sample.prediction is None else sample.prediction
        for sample, classes, index in zip(samples, top1, exits, strict=True)
    ]
    readouts = np.empty((len(samples), len(top1[0]), len(COLUMNS)), np.float32)
    readouts[:, :, TOP1] = top1
    readouts[:, :, P1] = [sample.p1 for sample in samples]
    readouts[:, :, P2] = [sample.p2 for sample in samples]
    readouts[:, :, ENTROPY] = [sample.entropy for sample in samples]
    differing = [sample.differing for sample in samples if sample.differing is not None]
    labels = [-1 if sample.label is None else sample.label for sample in samples]
    return SampleArrays(
        readouts,
        np.array(exits, np.int64),
        np.array(predictions, np.int64),
        _scored(samples),
        np.array(differing, np.float32) if len(differing) == len(samples) else None,
        np.array(labels, np.int64),
    )


def _scored(samples: Sequence[AuditedSample]) -> Simulation | None:
    scores = [sample.scores for sample in samples if sample.scores is not None]
    if len(scores) != len(samples):
        return None
    predictions = [sample.top1 if sample.predictions is None else sample.predictions for sample in samples]
    return Simulation(np.array(scores, np.float32), np.array(predictions, np.int64))

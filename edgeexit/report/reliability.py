"""Reliability diagrams: accuracy over confidence in bins, and the expected calibration error."""

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.readout_dataset import Values
from edgeexit.policies.readout import P1, TOP1

BINS = 15


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """The reliability diagram of an exit: B bins of equal width over the top-1 probability, without empty bins."""

    edges: Values
    """[B] lower edge of each bin."""
    confidence: Values
    """[B] mean top-1 probability in each bin."""
    accuracy: Values
    """[B] fraction of correct predictions in each bin."""
    counts: npt.NDArray[np.int64]
    """[B] number of samples in each bin."""

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean of |accuracy - confidence| over samples."""
        return float((self.counts * abs(self.accuracy - self.confidence)).sum() / self.counts.sum())


def reliability(dataset: ReadoutDataset, exit_index: int) -> Reliability:
    """Return the reliability diagram of an exit. Without labels, a prediction is correct if the final exit agrees.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 2; 15 bins as there.
    """
    readout = dataset.readouts[:, exit_index]
    confidence = readout[:, P1].astype(np.float64)
    correct = readout[:, TOP1] == dataset.truth
    bins = np.clip(
        np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1
    )  # bins are (lower, upper], as in the source
    counts = np.bincount(bins, minlength=BINS)
    non_empty = counts > 0
    return Reliability(
        edges=np.arange(BINS)[non_empty] / BINS,
        confidence=np.bincount(bins, weights=confidence, minlength=BINS)[non_empty] / counts[non_empty],
        accuracy=np.bincount(bins, weights=correct, minlength=BINS)[non_empty] / counts[non_empty],
        counts=counts[non_empty],
    )

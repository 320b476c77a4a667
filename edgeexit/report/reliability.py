"""Whether an exit is as sure as it is right: reliability by bins, and the expected calibration error."""

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.readout_dataset import Values
from edgeexit.policies.readout import P1, TOP1

BINS = 15


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """Top-1 probability against accuracy, over bins of equal width; only bins that hold samples."""

    edges: Values
    """[B] lower edge of each bin."""
    confidence: Values
    """[B] mean top-1 probability in it."""
    accuracy: Values
    """[B] share of right answers in it."""
    counts: npt.NDArray[np.int64]
    """[B] samples in it."""

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean of |accuracy - confidence| over samples."""
        return float((self.counts * abs(self.accuracy - self.confidence)).sum() / self.counts.sum())


def reliability(dataset: ReadoutDataset, exit_index: int) -> Reliability:
    """Return how sure an exit is against how right, where right is the label or else the final exit's answer.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 2; 15 bins as there.
    """
    readout = dataset.readouts[:, exit_index]
    sure = readout[:, P1].astype(np.float64)
    right = readout[:, TOP1] == dataset.truth
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)  # (lower, upper], as in the source
    counts = np.bincount(bins, minlength=BINS)
    held = counts > 0
    return Reliability(
        edges=np.arange(BINS)[held] / BINS,
        confidence=np.bincount(bins, weights=sure, minlength=BINS)[held] / counts[held],
        accuracy=np.bincount(bins, weights=right, minlength=BINS)[held] / counts[held],
        counts=counts[held],
    )

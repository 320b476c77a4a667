"""Exit rates, mean exit and accuracy per class."""

import msgspec
import numpy as np

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.outcome import PolicyOutcome

_SHOWN_PER_END = 15
"""Number of classes that are shown from each end of the order by mean exit."""


class ClassDepth(msgspec.Struct, frozen=True, kw_only=True):
    """The exits of the samples of one class."""

    index: int
    """Index of the class."""
    samples: int
    """Number of samples of the class."""
    rates: tuple[float, ...]
    """[K] fraction of the samples that exit at each exit."""
    accuracy: float
    """Fraction of correct predictions; without labels, of predictions that equal the final exit's."""

    @property
    def mean_depth(self) -> float:
        """Mean index of the exit; the first exit has index 1."""
        return sum(k * rate for k, rate in enumerate(self.rates, start=1))


def class_depths(dataset: ReadoutDataset, outcome: PolicyOutcome) -> tuple[ClassDepth, ...]:
    """Return the classes that have samples, sorted by mean depth.

    The class of a sample is its label, or without labels the prediction of the final exit.
    """
    truth = dataset.truth
    depths = []
    for index in np.unique(truth):
        of_class = truth == index
        exits = outcome.exits[of_class]
        depths.append(
            ClassDepth(
                index=int(index),
                samples=len(exits),
                rates=tuple(float(n) / len(exits) for n in np.bincount(exits, minlength=dataset.exits)),
                accuracy=1 - float(outcome.losses[of_class].mean()),
            )
        )
    return tuple(sorted(depths, key=lambda depth: (depth.mean_depth, depth.index)))


def shallowest_and_deepest(
    depths: tuple[ClassDepth, ...],
) -> tuple[tuple[ClassDepth, ...], tuple[ClassDepth, ...]]:
    """Return the 15 shallowest and the 15 deepest classes; of at most 30 classes, all of them and an empty tuple."""
    if len(depths) <= 2 * _SHOWN_PER_END:
        return depths, ()
    return depths[:_SHOWN_PER_END], depths[-_SHOWN_PER_END:]

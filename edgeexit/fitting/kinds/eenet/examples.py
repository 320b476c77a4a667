"""The training data of EENet's two functions, which holds the probabilities of one exit at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.policies.readout import ENTROPY, P1, Array

STATISTICS = 2
"""The highest probability and the certainty follow the probabilities of the classes."""

_BLOCK = 2**17
"""Numbers in a block of inputs: 1 MiB in float64, which the cache of a core can hold."""


class ExitInputs(NamedTuple):
    """The inputs of one exit [N, D], with D = C + 2 + k: probabilities, the two statistics, the k earlier scores.

    The probabilities stay in float32, as recorded. A float64 copy of all inputs would need twice their memory.
    """

    probabilities: Array
    """[N, C]."""
    others: Values
    """[N, 2 + k] the highest probability, the certainty 1 + sum(p log p) / log C, and the scores of earlier exits."""

    @property
    def width(self) -> int:
        """Number of inputs D."""
        return int(self.probabilities.shape[1] + self.others.shape[1])

    def matrix(self) -> Values:
        """Return all inputs as one array [N, D] float64."""
        return np.hstack([self.probabilities, self.others])

    def blocks(self) -> Iterator[tuple[slice, Values]]:
        """Yield the inputs [n, D] float64 of n samples at a time; the next block replaces them."""
        samples, classes = self.probabilities.shape
        rows = min(max(_BLOCK // self.width, 1), samples)
        buffer = np.empty((rows, self.width))
        for start in range(0, samples, rows):
            chosen = slice(start, min(start + rows, samples))
            block = buffer[: chosen.stop - start]
            block[:, :classes] = self.probabilities[chosen]
            block[:, classes:] = self.others[chosen]
            yield chosen, block


class Examples(NamedTuple):
    """The samples that EENet's two functions are trained on."""

    dataset: ReadoutDataset
    statistics: Values
    """[N, K, 2] the highest probability, and the certainty."""
    correct: Values
    """[N, K] 1 where the prediction of an exit is right, else 0; for segmentation, the fraction of right pixels."""

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return self.dataset.require_classes()

    @property
    def initial_scores(self) -> Values:
        """[N, K] the highest probability of each exit."""
        return np.array(self.statistics[..., 0])

    def inputs(self, k: int, scores: Values) -> ExitInputs:
        """Return the inputs of exit k, given the scores [N, K] of the exits before it."""
        return ExitInputs(self.dataset.exit_probabilities(k), np.hstack([self.statistics[:, k], scores[:, :k]]))

    def take(self, chosen: Indices) -> "Examples":
        """Return the samples with these indices."""
        return Examples(self.dataset.take(chosen), self.statistics[chosen], self.correct[chosen])


def examples_of(dataset: ReadoutDataset) -> Examples:
    """Return the training data in a dataset.

    Raises FittingError for readouts without probabilities, or with those of fewer than 2 classes.
    """
    classes = dataset.require_classes()
    if classes < 2:  # noqa: PLR2004 - one class needs no decision
        raise FittingError(f"policy 'eenet' needs at least 2 classes, and the readouts hold {classes}")
    certainty = 1 - dataset.readouts[..., ENTROPY].astype(np.float64) / np.log(classes)
    statistics = np.stack([dataset.readouts[..., P1].astype(np.float64), certainty], axis=-1)
    return Examples(dataset, statistics, 1 - dataset.losses(dataset.exit_predictions))

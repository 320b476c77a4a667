"""PCEE: exit when held-out samples of the same confidence were right often enough."""

from functools import cached_property
from typing import cast

import numpy as np

from edgeexit.policies.fields import require_fractions, require_length
from edgeexit.policies.float_policy import FloatPolicy, float32
from edgeexit.policies.readout import P1, TOP1, Array, as_float32


class Pcee(FloatPolicy, frozen=True, kw_only=True, tag="pcee"):
    """Exit at the first exit k whose accuracy on held-out samples of this confidence is >= t_k (delta in the paper).

    Confidence is the top-1 probability. [0, 1] is divided into M equal bins, each closed at its lower end, the last at
    both ends. At the final exit the score is the confidence itself.

    Source: PCEE, "Performance Control in Early Exiting to Deploy Large Models at the Same Cost of Smaller Ones"
    (Mofakhami et al., 2024, arXiv:2412.19325).
    """

    accuracies: tuple[tuple[float, ...], ...]
    """`[K-1][M]` accuracy of the held-out samples in each bin; M is the same at all exits."""

    def __post_init__(self) -> None:
        """Raise ValueError for accuracies of the wrong number, or outside [0, 1]."""
        super().__post_init__()
        require_length("accuracies", self.accuracies, self.exits - 1)
        if not self.accuracies[0]:
            raise ValueError("accuracies[0] has 0 entries; at least one bin is needed")
        for k, accuracies in enumerate(self.accuracies):
            require_length(f"accuracies[{k}]", accuracies, len(self.accuracies[0]))
            require_fractions(f"accuracies[{k}]", accuracies)

    @property
    def score_limits(self) -> tuple[float, ...]:
        """[K] the accuracy of the best bin."""
        return (*(max(accuracies) for accuracies in self.accuracies), 1.0)

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return the held-out accuracy of each sample's bin [B], and the state unchanged."""
        confidence = readout[:, P1]
        if exit_index == self._final:
            return confidence, state
        accuracies = self._arrays[exit_index]
        bins = (confidence * self._bins).astype(np.intp)
        return accuracies.take(bins, mode="clip"), state

    def score_single(self, exit_index: int, row: list[float], state: Array) -> tuple[float, float, Array]:
        """Return the held-out accuracy of the sample's bin, the top-1 class, and the state unchanged."""
        confidence = row[P1]
        if exit_index == self._final:
            return confidence, row[TOP1], state
        accuracies = self._single_accuracies[exit_index]
        index = min(int(float32(confidence * len(accuracies))), len(accuracies) - 1)
        return accuracies[index], row[TOP1], state

    @cached_property
    def _bins(self) -> Array:
        return as_float32(len(self.accuracies[0]))

    @cached_property
    def _arrays(self) -> Array:
        return as_float32(self.accuracies)

    @cached_property
    def _single_accuracies(self) -> list[list[float]]:
        """The accuracies, rounded to float32."""
        return cast("list[list[float]]", self._arrays.tolist())

"""EENet: a learned score, linear in the probabilities, their certainty and the scores of earlier exits."""

from functools import cached_property
from math import isfinite, log
from typing import ClassVar

import numpy as np

from edgeexit.policies.base import Policy
from edgeexit.policies.fields import require_classes, require_length, require_numbers
from edgeexit.policies.readout import COLUMNS, ENTROPY, P1, Array, as_float32

# Columns of statistic_weights.
_MAX = 0
_CERTAINTY = 1
_PAST = 2  # from this column on: the scores of earlier exits


class Eenet(Policy, frozen=True, kw_only=True, tag="eenet"):
    """Exit at the first exit k with q_k >= t_k.

    q_k = w1_k . p_k + w2_k . [max p_k, 1 - H(p_k) / ln C, q_0 .. q_{k-1}]. At the final exit q is max p. H is the
    entropy in the readout, which is exact for a probability of 0 (the authors' code adds an epsilon in the logarithm).
    The state of a sample is its scores so far.

    Source: EENet, "Adaptive Deep Neural Network Inference Optimization with EENet" (Ilhan et al., WACV 2024,
    arXiv:2301.07099).
    """

    reads_probabilities: ClassVar[bool] = True

    class_weights: tuple[tuple[float, ...], ...]
    """`[K-1][C]` w1 of each early exit."""
    statistic_weights: tuple[tuple[float, ...], ...]
    """`[K-1][2 + k]` w2 of each early exit: for max p, the certainty, and the scores of the k exits before it."""

    def __post_init__(self) -> None:
        """Raise ValueError for weights of the wrong number, or out of range."""
        super().__post_init__()
        require_length("class_weights", self.class_weights, self.exits - 1)
        require_length("statistic_weights", self.statistic_weights, self.exits - 1)
        require_classes("class_weights", len(self.class_weights[0]))
        for k, (classes, statistics) in enumerate(zip(self.class_weights, self.statistic_weights, strict=True)):
            require_length(f"class_weights[{k}]", classes, self.classes)
            require_numbers(f"class_weights[{k}]", classes)
            require_length(f"statistic_weights[{k}]", statistics, _PAST + k)
            require_numbers(f"statistic_weights[{k}]", statistics)
        if not isfinite(as_float32(sum(map(abs, _ends(self._intervals)))).item()):
            raise ValueError("statistic_weights allow scores beyond the range of float32; use smaller weights")

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.class_weights[0])

    @property
    def score_limits(self) -> tuple[float, ...]:
        """[K] upper bounds by interval arithmetic; the highest possible score may be lower."""
        return (*(high for _, high in self._intervals), 1.0)

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return q_k [B] and the state [B, k + 1]: the scores so far."""
        if exit_index == self._final:
            return readout[:, P1], state
        row, past, constant = self._arrays[exit_index]
        after = np.empty((len(state), exit_index + 1), dtype=np.float32)
        after[:, :exit_index] = state
        # einsum sums a row in the same order for every batch size; a matrix product does not.
        q = np.einsum("bc,c->b", readout, row)
        q += constant
        if exit_index:
            q += np.einsum("bj,j->b", state, past)
        after[:, exit_index] = q
        return q, after

    @cached_property
    def _arrays(self) -> tuple[tuple[Array, Array, Array], ...]:
        """For each early exit (row, past, constant): q = readout [4 + C] . row + earlier scores . past + constant."""
        arrays = []
        for classes, statistics in zip(self.class_weights, self.statistic_weights, strict=True):
            row = np.zeros(len(COLUMNS) + self.classes)
            row[P1] = statistics[_MAX]
            row[ENTROPY] = -statistics[_CERTAINTY] / log(self.classes)
            row[len(COLUMNS) :] = classes
            arrays.append((as_float32(row), as_float32(statistics[_PAST:]), as_float32(statistics[_CERTAINTY])))
        return tuple(arrays)

    @cached_property
    def _intervals(self) -> tuple[tuple[float, float], ...]:
        """[K-1] an interval that contains all possible scores of each early exit."""
        intervals: list[tuple[float, float]] = []
        for classes, statistics in zip(self.class_weights, self.statistic_weights, strict=True):
            ranges = ((1 / self.classes, 1.0), (0.0, 1.0), *intervals)
            ends = [sorted((w * low, w * high)) for w, (low, high) in zip(statistics, ranges, strict=True)]
            low = min(classes) + sum(end[0] for end in ends)
            high = max(classes) + sum(end[1] for end in ends)
            intervals.append((low, high))
        return tuple(intervals)


def _ends(intervals: tuple[tuple[float, float], ...]) -> tuple[float, ...]:
    return tuple(end for interval in intervals for end in interval)

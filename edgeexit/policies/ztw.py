"""ZTW: the prediction at each exit is that of an ensemble of this exit and the exits before it."""

from functools import cached_property
from math import exp, fsum
from typing import ClassVar

import numpy as np

from edgeexit.policies.base import Policy
from edgeexit.policies.fields import require_classes, require_length, require_numbers, require_positive
from edgeexit.policies.readout import COLUMNS, P1, Array, as_float32

_CLASS = 0
_LOGS = 1  # from this column on: ln p of the exits so far
_ONE = as_float32(1)
_MIN_P = as_float32(np.finfo(np.float32).tiny)
"""Added to probabilities, so that 0 has a logarithm. It changes no probability above 4e-31."""
_MIN_LOG = float(np.log(np.float64(_MIN_P)))


class Ztw(Policy, frozen=True, kw_only=True, tag="ztw"):
    """Exit at the first exit k where max softmax(z_k) >= t_k; the prediction is argmax z_k.

    z_k = mean over j <= k of weights_kj ln p_j, plus biases_k: a geometric ensemble with weights above 0 (exp(w) in
    the paper). At the final exit the score is the top-1 probability of that exit alone. The state of a sample is the
    class of the ensemble and, if a later early exit reads them, ln p of the exits so far.

    Source: "Zero Time Waste: Recycling Predictions in Early Exit Neural Networks" (Wolczyk et al., NeurIPS 2021,
    arXiv:2106.05409).
    """

    reads_probabilities: ClassVar[bool] = True

    weights: tuple[tuple[float, ...], ...]
    """`[K-1][k + 1]` weights of exits 0..k in the ensemble of early exit k, above 0."""
    biases: tuple[tuple[float, ...], ...]
    """`[K-1][C]` bias of each class."""

    def __post_init__(self) -> None:
        """Raise ValueError for weights or biases of the wrong number, or out of range."""
        super().__post_init__()
        require_length("weights", self.weights, self.exits - 1)
        require_length("biases", self.biases, self.exits - 1)
        require_classes("biases", len(self.biases[0]))
        for k, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            require_length(f"weights[{k}]", weights, k + 1)
            require_positive(f"weights[{k}]", weights)
            require_length(f"biases[{k}]", biases, self.classes)
            require_numbers(f"biases[{k}]", biases)

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.biases[0])

    @property
    def score_limits(self) -> tuple[float, ...]:
        """[K] reached if all exits so far are certain of the class with the highest bias."""
        limits = []
        for weights, biases in zip(self.weights, self.biases, strict=True):
            *others, best = sorted(biases)
            lead = -_MIN_LOG * fsum(weights) / len(weights)
            limits.append(1 / (1 + fsum(exp(bias - best - lead) for bias in others)))
        return (*limits, 1.0)

    def initial_state(self, batch: int) -> Array:
        """Return [batch, 1]: no class (-1)."""
        return np.full((batch, _LOGS), -1, dtype=np.float32)

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return the ensemble's top-1 probability [B] and the state [B, 1 + (k + 1) C]."""
        if exit_index == self._final:
            return readout[:, P1], state
        weights, biases, shape = self._arrays[exit_index]
        logs = readout[:, len(COLUMNS) :] + _MIN_P
        after = np.concatenate((state, np.log(logs, out=logs)), axis=1)
        # einsum sums in the same order for every batch size; a matrix product does not.
        z = np.einsum("bjc,j->bc", after[:, _LOGS:].reshape(shape), weights)
        z += biases
        after[:, _CLASS] = z.argmax(axis=1)
        z -= np.maximum.reduce(z, axis=1, keepdims=True)
        total = np.add.reduce(np.exp(z, out=z), axis=1)
        return _ONE / total, after[:, :_LOGS] if exit_index == self._final - 1 else after

    def predictions(self, exit_index: int, readout: Array, state: Array) -> Array:  # noqa: ARG002
        """Return the classes of the ensembles [B]."""
        return state[:, _CLASS]

    @cached_property
    def _arrays(self) -> tuple[tuple[Array, Array, tuple[int, int, int]], ...]:
        """For each early exit: weights [k + 1] divided by k + 1, biases [1, C], and the shape of its logarithms."""
        return tuple(
            (as_float32(np.array(weights) / len(weights)), as_float32([biases]), (-1, len(weights), len(biases)))
            for weights, biases in zip(self.weights, self.biases, strict=True)
        )

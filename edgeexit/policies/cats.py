"""CATs: exit when the final exit probably agrees."""

from functools import cached_property
from math import exp

import numpy as np

from edgeexit.policies.base import Policy
from edgeexit.policies.fields import require_length, require_numbers
from edgeexit.policies.readout import COLUMNS, ENTROPY, P1, P2, Array, as_float32

_FEATURES = 3
_HALF = as_float32(0.5)


class Cats(Policy, frozen=True, kw_only=True, tag="cats"):
    """Exit at the first exit k where the estimated probability that the final exit agrees is >= t_k.

    The estimate is sigmoid(w_k . [p(1), p(1) - p(2), H(p)] + b_k), the paper's meta consistency classifier on features
    of the readout. At the final exit the score is p(1).

    Source: "Consistent Accelerated Inference via Confident Adaptive Transformers" (Schuster et al., EMNLP 2021,
    arXiv:2104.08803).
    """

    weights: tuple[tuple[float, ...], ...]
    """`[K-1][3]` weights of each early exit for the top-1 probability, the margin, and the entropy in nats."""
    biases: tuple[float, ...]
    """[K-1] bias of each early exit."""

    def __post_init__(self) -> None:
        """Raise ValueError for weights or biases of the wrong number, or out of range."""
        super().__post_init__()
        require_length("weights", self.weights, self.exits - 1)
        for k, weights in enumerate(self.weights):
            require_length(f"weights[{k}]", weights, _FEATURES)
            require_numbers(f"weights[{k}]", weights)
        require_length("biases", self.biases, self.exits - 1)
        require_numbers("biases", self.biases)

    @property
    def score_limits(self) -> tuple[float, ...]:
        """[K] upper bounds: the entropy counts as 0 if it lowers the score, and as unbounded if it raises it."""
        limits = []
        for (top, margin, entropy), bias in zip(self.weights, self.biases, strict=True):
            # (p(1), margin) is in the triangle of (1, 1), (1/2, 0) (two equal classes), and (0, 0) (very many).
            highest = bias + max(top + margin, top / 2, 0.0)
            limits.append(1.0 if entropy > 0 else _sigmoid(highest))
        return (*limits, 1.0)

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return the estimated probability of agreement [B], and the state unchanged."""
        if exit_index == self._final:
            return readout[:, P1], state
        row, bias = self._arrays[exit_index]
        # einsum sums a row in the same order for every batch size; a matrix product does not.
        z = np.einsum("bc,c->b", readout[:, : len(COLUMNS)], row)
        z += bias
        np.tanh(z, out=z)  # sigmoid(2 z) = (1 + tanh z) / 2, which cannot overflow
        z *= _HALF
        z += _HALF
        return z, state

    @cached_property
    def _arrays(self) -> tuple[tuple[Array, Array], ...]:
        """For each early exit (row, bias): half of the logit is readout [4] . row + bias."""
        arrays = []
        for (top, margin, entropy), bias in zip(self.weights, self.biases, strict=True):
            row = np.zeros(len(COLUMNS))
            row[P1], row[P2], row[ENTROPY] = top + margin, -margin, entropy
            arrays.append((as_float32(row / 2), as_float32(bias / 2)))
        return tuple(arrays)


def _sigmoid(z: float) -> float:
    return 1 / (1 + exp(-z)) if z > 0 else exp(z) / (1 + exp(z))

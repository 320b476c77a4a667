"""BEEM: the confidences of consecutive exits are summed while the exits agree."""

from functools import cached_property
from itertools import accumulate

import numpy as np

from edgeexit.policies.fields import require_length, require_positive
from edgeexit.policies.float_policy import FloatPolicy, float32, state_of
from edgeexit.policies.readout import P1, TOP1, Array, as_float32

_LAST_CLASS = 0
_SUM = 1


class Beem(FloatPolicy, frozen=True, kw_only=True, tag="beem"):
    """Exit at the first exit k with S_k >= t_k (a_k in the paper); the prediction is y_k.

    S_0 = w_0 C_0; S_k = S_{k-1} + w_k C_k if y_k == y_{k-1}, else S_k = w_k C_k.
    C_k is the top-1 probability and y_k the class of exit k. The state of a sample is its last class and S.

    Source: BEEM, "Boosting Performance of Early Exit DNNs using Multi-Exit Classifiers as Experts"
    (arXiv:2502.00745, ICLR 2025).
    """

    weights: tuple[float, ...]
    """[K] weight of each exit, above 0, e.g. its cost (BEEM-C) or its held-out accuracy (BEEM-A)."""

    def __post_init__(self) -> None:
        """Raise ValueError for weights of the wrong number, or not above 0."""
        super().__post_init__()
        require_length("weights", self.weights, self.exits)
        require_positive("weights", self.weights)

    @property
    def score_limits(self) -> tuple[float, ...]:
        """[K] reached if all exits so far agree with a confidence of 1; summed in float32, as the scores are."""
        return tuple(float(limit) for limit in accumulate(as_float32(self.weights)))

    def initial_state(self, batch: int) -> Array:
        """Return [batch, 2]: no class (-1), and a sum of 0."""
        state = np.zeros((batch, 2), dtype=np.float32)
        state[:, _LAST_CLASS] = -1
        return state

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return S_k [B] and the new state [B, 2]."""
        confidence = readout[:, P1] * self._weights[exit_index]
        total = np.where(readout[:, TOP1] == state[:, _LAST_CLASS], state[:, _SUM] + confidence, confidence)
        after = np.empty_like(state)
        after[:, _LAST_CLASS] = readout[:, TOP1]
        after[:, _SUM] = total
        return total, after

    def score_single(self, exit_index: int, row: list[float], state: Array) -> tuple[float, float, Array]:
        """Return S_k, the top-1 class, and the new state [1, 2]."""
        last, total = state.tolist()[0]
        confidence = float32(row[P1] * self._single_weights[exit_index])
        total = float32(total + confidence) if row[TOP1] == last else confidence
        return total, row[TOP1], state_of(row[TOP1], total)

    @cached_property
    def _weights(self) -> tuple[Array, ...]:
        return tuple(as_float32(weight) for weight in self.weights)

    @cached_property
    def _single_weights(self) -> tuple[float, ...]:
        """The weights, rounded to float32."""
        return tuple(weight.item() for weight in self._weights)

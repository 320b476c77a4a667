"""BEEM: exits are experts whose confidences add up while they agree."""

from itertools import accumulate
from math import isfinite

import numpy as np

from edgeexit.policies.base import Policy, require_length
from edgeexit.policies.readout import P1, TOP1, Array

_LAST_CLASS = 0
_SUM = 1


class Beem(Policy, frozen=True, kw_only=True, tag="beem"):
    """Leave at the first exit k with S_k >= a_k, answering y_k.

    S_0 = w_0 C_0; S_k = S_{k-1} + w_k C_k where y_k == y_{k-1}, else S_k = w_k C_k (re-seeded).
    C_k is the top-1 probability and y_k the class of exit k. The state of a sample is its last class and S.

    Source: BEEM, "Boosting Performance of Early Exit DNNs using Multi-Exit Classifiers as Experts"
    (arXiv:2502.00745, ICLR 2025).
    """

    weights: tuple[float, ...]
    """[K] weight of every exit, above 0: its cost (BEEM-C) or its held-out accuracy (BEEM-A)."""

    def __post_init__(self) -> None:
        """Refuse weights of the wrong number or sign (ValueError)."""
        super().__post_init__()
        require_length("weights", self.weights, self.exits)
        if not all(isfinite(w) and w > 0 for w in self.weights):
            raise ValueError(f"weights {list(self.weights)} must all be finite and above 0")

    @property
    def score_limits(self) -> tuple[float, ...]:
        """All exits so far agree with full confidence."""
        return tuple(accumulate(self.weights))

    def initial_state(self, batch: int) -> Array:
        """Return [batch, 2]: no class yet, and a sum of 0."""
        state = np.zeros((batch, 2), dtype=np.float32)
        state[:, _LAST_CLASS] = -1
        return state

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return S_k [B] and the new state [B, 2]."""
        vote = np.float32(self.weights[exit_index]) * readout[:, P1]
        total = np.where(readout[:, TOP1] == state[:, _LAST_CLASS], state[:, _SUM] + vote, vote)
        after = np.empty_like(state)
        after[:, _LAST_CLASS] = readout[:, TOP1]
        after[:, _SUM] = total
        return total, after

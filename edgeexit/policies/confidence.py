"""Confidence: exit when the top-1 probability is high enough."""

from edgeexit.policies.float_policy import FloatPolicy
from edgeexit.policies.readout import P1, TOP1, Array


class Confidence(FloatPolicy, frozen=True, kw_only=True, tag="confidence"):
    """Exit at the first exit k with max softmax(logits_k / T_k) >= t_k.

    Source: maximum softmax probability as in MSDNet (Huang et al., ICLR 2018).
    """

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Return the top-1 probability [B], and the state unchanged."""
        return readout[:, P1], state

    def score_single(self, exit_index: int, row: list[float], state: Array) -> tuple[float, float, Array]:  # noqa: ARG002
        """Return the top-1 probability, its class, and the state unchanged."""
        return row[P1], row[TOP1], state

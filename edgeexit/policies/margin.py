"""Margin: exit when the two highest probabilities differ enough."""

from edgeexit.policies.float_policy import FloatPolicy, float32
from edgeexit.policies.readout import P1, P2, TOP1, Array


class Margin(FloatPolicy, frozen=True, kw_only=True, tag="margin"):
    """Exit at the first exit k with p(1) - p(2) >= t_k; p(1) and p(2) are the two highest probabilities.

    Source: the "best versus second best" of active learning (Joshi et al., CVPR 2009).
    """

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Return the margin [B], and the state unchanged."""
        return readout[:, P1] - readout[:, P2], state

    def score_single(self, exit_index: int, row: list[float], state: Array) -> tuple[float, float, Array]:  # noqa: ARG002
        """Return the margin, the top-1 class, and the state unchanged."""
        return float32(row[P1] - row[P2]), row[TOP1], state

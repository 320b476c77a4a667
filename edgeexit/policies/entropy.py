"""Entropy: exit when the entropy of the class probabilities is low enough."""

from functools import cached_property
from math import log

from edgeexit.policies.fields import require_classes
from edgeexit.policies.float_policy import FloatPolicy, float32
from edgeexit.policies.readout import ENTROPY, TOP1, Array, as_float32

_ONE = as_float32(1)


class Entropy(FloatPolicy, frozen=True, kw_only=True, tag="entropy"):
    """Exit at the first exit k with 1 - H(p_k) / ln C >= t_k.

    The score is the certainty, in [0, 1]. BranchyNet's rule H(p_k) <= h is the same with t_k = 1 - h / ln C.

    Source: BranchyNet (Teerapittayanon et al., ICPR 2016, arXiv:1709.01686).
    """

    classes: int
    """Number of classes C."""

    def __post_init__(self) -> None:
        """Raise ValueError for fewer than 2 classes."""
        super().__post_init__()
        require_classes("classes", self.classes)

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Return the certainty [B], and the state unchanged."""
        score = readout[:, ENTROPY] * self._scale
        score += _ONE
        return score, state

    def score_single(self, exit_index: int, row: list[float], state: Array) -> tuple[float, float, Array]:  # noqa: ARG002
        """Return the certainty, the top-1 class, and the state unchanged."""
        return float32(float32(row[ENTROPY] * self._single_scale) + 1), row[TOP1], state

    @cached_property
    def _scale(self) -> Array:
        return as_float32(-1 / log(self.classes))

    @cached_property
    def _single_scale(self) -> float:
        return self._scale.item()

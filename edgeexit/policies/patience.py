"""Patience: exit when enough consecutive exits have the same prediction."""

import numpy as np

from edgeexit.policies.float_policy import FloatPolicy, state_of
from edgeexit.policies.readout import TOP1, Array, as_float32

_LAST_CLASS = 0
_COUNT = 1
_ONE = as_float32(1)


class Patience(FloatPolicy, frozen=True, kw_only=True, tag="patience"):
    """Exit at the first exit k whose prediction equals that of the t_k exits before it.

    The score is the number of exits directly before this one with the same prediction: 0 at the first exit and after
    a change. PABEE has one patience P, which is the threshold of all exits. The state of a sample is its last class and
    the count.

    Source: PABEE, "BERT Loses Patience" (Zhou et al., NeurIPS 2020, arXiv:2006.04152).
    """

    @property
    def score_limits(self) -> tuple[float, ...]:
        """[K] reached if all exits so far agree."""
        return tuple(float(k) for k in range(self.exits))

    def initial_state(self, batch: int) -> Array:
        """Return [batch, 2]: no class (-1), and a count of 0."""
        state = np.zeros((batch, 2), dtype=np.float32)
        state[:, _LAST_CLASS] = -1
        return state

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Return the count [B] and the new state [B, 2]."""
        after = np.empty_like(state)
        after[:, _LAST_CLASS] = readout[:, TOP1]
        count = state[:, _COUNT] + _ONE
        count *= readout[:, TOP1] == state[:, _LAST_CLASS]
        after[:, _COUNT] = count
        return count, after

    def score_single(self, exit_index: int, row: list[float], state: Array) -> tuple[float, float, Array]:  # noqa: ARG002
        """Return the count, the top-1 class, and the new state [1, 2]."""
        last, count = state.tolist()[0]
        count = (count + 1) * (row[TOP1] == last)
        return count, row[TOP1], state_of(row[TOP1], count)

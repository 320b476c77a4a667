"""Voting: each exit votes for its class; a sample exits when enough votes agree."""

from functools import cached_property

import numpy as np

from edgeexit.policies.float_policy import FloatPolicy, float32, state_of
from edgeexit.policies.readout import TOP1, Array, as_float32

_MODE = 0
_VOTES = 1
_CAST = 2  # from this column on: the votes of the exits so far


class Voting(FloatPolicy, frozen=True, kw_only=True, tag="voting"):
    """Exit at the first exit k where the modal class of exits 0..k has a fraction of the votes >= t_k; it is predicted.

    Among classes with equally many votes, the one with the newest vote is the mode, because it comes from the deepest
    exit. At the first exit the fraction is always 1, so its threshold lets all samples exit, or none. The state of a
    sample is the mode, its number of votes, and the votes so far: k + 2 numbers after k exits.

    Source: "Early Exiting with Ensemble Internal Classifiers" (Sun et al., 2021, arXiv:2105.13792).
    """

    def initial_state(self, batch: int) -> Array:
        """Return [batch, 2]: no mode (-1), and no votes."""
        state = np.zeros((batch, _CAST), dtype=np.float32)
        state[:, _MODE] = -1
        return state

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return the fraction of the votes for the mode [B] and the new state [B, k + 3]."""
        vote = readout[:, TOP1]
        after = np.empty((len(state), exit_index + _CAST + 1), dtype=np.float32)
        after[:, _CAST:-1] = state[:, _CAST:]
        after[:, -1] = vote
        votes = np.add.reduce(after[:, _CAST:] == vote[:, None], axis=1, dtype=np.float32)
        # Only the class of the newest vote gained a vote: it becomes the mode if it now has as many votes.
        after[:, _MODE] = np.where(votes >= state[:, _VOTES], vote, state[:, _MODE])
        np.maximum(votes, state[:, _VOTES], out=votes)
        after[:, _VOTES] = votes
        return votes / self._voters[exit_index], after

    def score_single(self, exit_index: int, row: list[float], state: Array) -> tuple[float, float, Array]:
        """Return the fraction of the votes for the mode, the mode, and the new state [1, k + 3]."""
        mode, most, *cast = state.tolist()[0]
        vote = row[TOP1]
        cast.append(vote)
        votes = cast.count(vote)
        if votes >= most:
            mode, most = vote, votes
        prediction = vote if exit_index == self._final else mode
        return float32(most / (exit_index + 1)), prediction, state_of(mode, most, *cast)

    def predictions(self, exit_index: int, readout: Array, state: Array) -> Array:  # noqa: ARG002
        """Return the modal classes [B]."""
        return state[:, _MODE]

    @cached_property
    def _voters(self) -> tuple[Array, ...]:
        return tuple(as_float32(k + 1) for k in range(self.exits))

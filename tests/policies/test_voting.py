"""Voting: counting, ties, and predictions."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.readout import Array
from edgeexit.policies.voting import Voting


def votes_of(*predictions: list[int]) -> Array:
    readouts = np.full((len(predictions), len(predictions[0]), 4), 0.5, dtype=np.float32)
    readouts[:, :, 0] = predictions
    return readouts


def test_votes_are_counted_and_the_newest_breaks_a_tie():
    policy = Voting(temperatures=(1.0,) * 5, thresholds=(None,) * 4)
    scores, predictions = simulate(policy, votes_of([0, 1, 1, 2, 2], [4, 4, 3, 3, 4]))
    np.testing.assert_allclose(scores, [[1, 1 / 2, 2 / 3, 2 / 4, 2 / 5], [1, 1, 2 / 3, 2 / 4, 3 / 5]], rtol=1e-6)
    np.testing.assert_array_equal(predictions[:, :-1], [[0, 1, 1, 1], [4, 4, 4, 3]])


def test_the_prediction_is_the_mode_even_if_the_exit_itself_predicts_another_class():
    policy = Voting(temperatures=(1.0,) * 4, thresholds=(None, None, 2 / 3))
    readouts = votes_of([5, 5, 7, 7])
    assert simulate_exits(policy, readouts)[0] == 2
    np.testing.assert_array_equal(simulate(policy, readouts).predictions[0], [5, 5, 5, 7])


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_voting_equals_counting_all_votes_again_at_every_exit(votes):
    policy = Voting(temperatures=(1.0,) * len(votes), thresholds=(None,) * (len(votes) - 1))
    scores, predictions = simulate(policy, votes_of(votes))
    for k in range(len(votes)):
        counts = Counter(votes[: k + 1])
        highest = max(counts.values())
        mode = next(vote for vote in reversed(votes[: k + 1]) if counts[vote] == highest)
        assert scores[0, k] == np.float32(highest / (k + 1))
        assert predictions[0, k] == (mode if k < len(votes) - 1 else votes[-1])

"""Voting and ZTW, which answer with what several exits say together."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.readout import Array
from edgeexit.policies.voting import Voting
from edgeexit.policies.ztw import Ztw
from tests.policies.policy_examples import make_policy, make_readouts


def votes_of(*predictions: list[int]) -> Array:
    readouts = np.full((len(predictions), len(predictions[0]), 4), 0.5, dtype=np.float32)
    readouts[:, :, 0] = predictions
    return readouts


def test_votes_are_counted_and_the_newest_breaks_a_tie():
    policy = Voting(temperatures=(1.0,) * 5, thresholds=(None,) * 4)
    scores, predictions = simulate(policy, votes_of([0, 1, 1, 2, 2], [4, 4, 3, 3, 4]))
    np.testing.assert_allclose(scores, [[1, 1 / 2, 2 / 3, 2 / 4, 2 / 5], [1, 1, 2 / 3, 2 / 4, 3 / 5]], rtol=1e-6)
    np.testing.assert_array_equal(predictions[:, :-1], [[0, 1, 1, 1], [4, 4, 4, 3]])


def test_the_mode_is_answered_even_where_the_exit_itself_says_otherwise():
    policy = Voting(temperatures=(1.0,) * 4, thresholds=(None, None, 2 / 3))
    readouts = votes_of([5, 5, 7, 7])
    assert simulate_exits(policy, readouts)[0] == 2
    np.testing.assert_array_equal(simulate(policy, readouts).predictions[0], [5, 5, 5, 7])


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_voting_is_what_counting_afresh_at_every_exit_gives(votes):
    policy = Voting(temperatures=(1.0,) * len(votes), thresholds=(None,) * (len(votes) - 1))
    scores, predictions = simulate(policy, votes_of(votes))
    for k in range(len(votes)):
        counts = Counter(votes[: k + 1])
        most = max(counts.values())
        mode = next(vote for vote in reversed(votes[: k + 1]) if counts[vote] == most)
        assert scores[0, k] == np.float32(most / (k + 1))
        assert predictions[0, k] == (mode if k < len(votes) - 1 else votes[-1])


def test_ztw_is_the_weighted_geometric_mean_of_the_exits_so_far():
    policy = make_policy("ztw", exits=4, classes=5, seed=3)
    readouts = make_readouts(60, exits=4, classes=5, seed=1)
    p = np.maximum(readouts[:, :, 4:].astype(np.float64), np.finfo(np.float32).tiny)
    scores, predictions = simulate(policy, readouts)
    for k in range(3):
        logits = np.mean([w * np.log(p[:, j]) for j, w in enumerate(policy.weights[k])], axis=0) + policy.biases[k]
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(scores[:, k], exponents.max(axis=1) / exponents.sum(axis=1), rtol=1e-5)
        np.testing.assert_array_equal(predictions[:, k], logits.argmax(axis=1))
    np.testing.assert_array_equal(scores[:, 3], readouts[:, 3, 1])
    assert (predictions[:, :3] != readouts[:, :3, 0]).any()


def test_ztw_answers_with_the_ensemble_where_two_exits_outweigh_the_newest():
    readouts = np.zeros((1, 4, 6), dtype=np.float32)
    readouts[0, :, 4:] = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]
    readouts[0, :, 0] = [0, 0, 1, 1]
    policy = Ztw(
        temperatures=(1.0,) * 4,
        thresholds=(None, None, 0.5),
        weights=((1.0,), (1.0, 1.0), (1.0, 1.0, 1.0)),
        biases=((0.0, 0.0),) * 3,
    )
    assert simulate_exits(policy, readouts)[0] == 2
    np.testing.assert_array_equal(simulate(policy, readouts).predictions[0], [0, 0, 0, 1])
    assert simulate(policy, readouts).scores[0, 2] == pytest.approx(1 / (1 + (1 / 9 * 1 / 9 * 3 / 2) ** (1 / 3)))


def test_exits_that_rule_out_each_other_s_class_still_have_a_score():
    readouts = np.zeros((1, 3, 6), dtype=np.float32)
    readouts[0, :, 4:] = [[1, 0], [0, 1], [0, 1]]
    policy = Ztw(
        temperatures=(1.0,) * 3, thresholds=(None, 0.4), weights=((9.0,), (9.0, 9.0)), biases=((0.0, 0.0),) * 2
    )
    assert simulate(policy, readouts).scores[0, 1] == pytest.approx(0.5)

"""All kinds of policies: batches, the final exit, null thresholds, readouts that are not finite, require_fits."""

import itertools
import warnings

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import PolicyError
from edgeexit.policies import KINDS, simulate, simulate_exits
from tests.policies.policy_examples import EXITS, as_read, decide_in_turn, kinds, make_policy, make_readouts, seeds


@given(kind=kinds, seed=seeds, samples=st.integers(1, 300), classes=st.integers(2, 70))
def test_the_decision_on_a_sample_does_not_depend_on_its_batch(kind, seed, samples, classes):
    """One by one, in one batch, and without the rows of exited samples: bit-identical results."""
    policy = make_policy(kind, seed=seed, classes=classes)
    readouts = make_readouts(samples, seed=seed, classes=classes)
    compacted = decide_in_turn(policy, readouts)
    scores, predictions = simulate(policy, as_read(policy, readouts))
    exits = simulate_exits(policy, as_read(policy, readouts))
    rows = np.arange(samples)
    np.testing.assert_array_equal(compacted.exits, exits)
    np.testing.assert_array_equal(compacted.predictions, predictions[rows, exits])
    np.testing.assert_array_equal(
        compacted.scores, np.where(np.arange(EXITS) <= exits[:, None], scores, np.float32(np.nan))
    )
    for row in rows[:: max(1, samples // 5)]:
        alone = decide_in_turn(policy, readouts[row : row + 1])
        np.testing.assert_array_equal(alone.scores[0], compacted.scores[row])
        assert (alone.exits[0], alone.predictions[0]) == (exits[row], predictions[row, exits[row]])


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_exit_at_every_exit(kind):
    """If they did not, the test above would cover little."""
    readouts = make_readouts(300)
    taken = {k for seed in range(5) for k in decide_in_turn(make_policy(kind, seed=seed), readouts).exits}
    assert taken == set(range(EXITS))


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_whose_thresholds_are_all_null_is_the_full_model(kind):
    policy = make_policy(kind, thresholds=(None,) * (EXITS - 1))
    readouts = make_readouts(50)
    outcome = decide_in_turn(policy, readouts)
    np.testing.assert_array_equal(outcome.exits, EXITS - 1)
    np.testing.assert_array_equal(outcome.predictions, readouts[:, -1, 0])


@given(kind=kinds, seed=seeds, thresholds=st.lists(st.none() | st.floats(-1, 3), min_size=4, max_size=4))
def test_the_prediction_at_the_final_exit_is_its_own_class(kind, seed, thresholds):
    policy = make_policy(kind, seed=seed, thresholds=tuple(thresholds))
    readouts = make_readouts(40, seed=seed)
    outcome = decide_in_turn(policy, readouts)
    final = outcome.exits == EXITS - 1
    np.testing.assert_array_equal(outcome.predictions[final], readouts[final, -1, 0])
    np.testing.assert_array_equal(simulate(policy, as_read(policy, readouts)).predictions[:, -1], readouts[:, -1, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_equal_to_its_threshold_exits(kind):
    readouts = make_readouts(20)
    policy = make_policy(kind)
    scores = simulate(policy, as_read(policy, readouts)).scores
    for k in range(EXITS - 1):
        thresholds = [None] * (EXITS - 1)
        thresholds[k] = float(scores[7, k])
        tied = msgspec.structs.replace(policy, thresholds=tuple(thresholds))
        assert decide_in_turn(tied, readouts).exits[7] == k


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", [0, 1, 2, 3, -1])
def test_a_sample_does_not_exit_where_its_readout_is_not_finite_and_others_do(kind, column):
    policy = make_policy(kind, thresholds=(-1e6,) * (EXITS - 1))
    sound = as_read(policy, make_readouts(3))
    for at, value in itertools.product(range(EXITS), (np.nan, np.inf, -np.inf)):
        damaged = sound.copy()
        damaged[1, at, column] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = simulate(policy, damaged).scores
            state = policy.initial_state(3)
            for k in range(at + 1):
                decision = policy.decide(k, damaged[:, k], state)
                state = decision.state
        np.testing.assert_array_equal(decision.exit_mask, [True, at == EXITS - 1, True])
        np.testing.assert_array_equal(scores[[0, 2]], simulate(policy, sound).scores[[0, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_readout_of_nan_continues_to_the_final_exit(kind):
    policy = make_policy(kind, thresholds=(-1e6,) * (EXITS - 1))
    width = 8 if policy.reads_probabilities else 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        readouts = np.full((2, EXITS, width), np.nan, dtype=np.float32)
        np.testing.assert_array_equal(simulate_exits(policy, readouts), EXITS - 1)
        np.testing.assert_array_equal(simulate(policy, readouts).predictions[:, -1], -1)


def test_a_sample_can_exit_early_after_an_exit_whose_readout_is_not_finite():
    policy = make_policy("confidence", thresholds=(0.5,) * (EXITS - 1))
    readouts = np.tile(np.array([2, 0.9, 0.05, 0.1], dtype=np.float32), (1, EXITS, 1))
    readouts[0, 0, 3] = np.nan
    assert decide_in_turn(policy, readouts).exits[0] == 1


@pytest.mark.parametrize("kind", ["patience", "voting", "beem"])
def test_an_exit_whose_readout_is_not_finite_does_not_count_at_later_exits(kind):
    """Its class is finite, but it agrees with no other exit."""
    policy = make_policy(kind, thresholds=(None,) * (EXITS - 1))
    readouts = np.tile(np.array([2, 0.9, 0.05, 0.1], dtype=np.float32), (1, EXITS, 1))
    readouts[0, 1, 1] = np.nan
    scores = simulate(policy, readouts).scores[0]
    if kind == "patience":
        np.testing.assert_array_equal(scores[[0, 2, 3, 4]], [0, 0, 1, 2])
    elif kind == "voting":
        np.testing.assert_allclose(scores[[0, 2, 3, 4]], [1, 2 / 3, 3 / 4, 4 / 5], rtol=1e-6)
    else:
        np.testing.assert_allclose(scores[2], 0.9 * policy.weights[2], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_can_be_empty(kind):
    policy = make_policy(kind)
    assert decide_in_turn(policy, make_readouts(0)).exits.shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_changes_neither_its_readout_nor_its_state(kind):
    policy = make_policy(kind)
    readouts = as_read(policy, make_readouts(6))
    state = policy.initial_state(6)
    for k in range(EXITS):
        before = readouts[:, k].copy(), state.copy()
        decision = policy.decide(k, readouts[:, k], state)
        np.testing.assert_array_equal(readouts[:, k], before[0])
        np.testing.assert_array_equal(state, before[1])
        assert decision.score.dtype == decision.state.dtype == decision.prediction.dtype == np.float32
        state = decision.state


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_for_another_model_is_refused(kind):
    policy = make_policy(kind, exits=5, classes=4)
    policy.require_fits(5, 4)
    with pytest.raises(PolicyError, match=f"policy '{kind}' is for 5 exits, the bundle has 3"):
        policy.require_fits(3, 4)
    if policy.classes is None:
        policy.require_fits(5, 9)
    else:
        with pytest.raises(PolicyError, match=f"policy '{kind}' is for 4 classes, the bundle has 9"):
            policy.require_fits(5, 9)

"""`decide_single`: a sample on its own has the decision that it has in a batch, to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.policies import KINDS, Policy
from edgeexit.policies.base import Decision, SingleDecision
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.float_policy import FloatPolicy, float32
from tests.policies.policy_examples import EXITS, as_read, kinds, make_policy, make_readouts, seeds

finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def assert_same_decisions(policy: Policy, readouts: np.ndarray) -> list[int]:
    """Decide on each sample [N, K, ...] alone, with `decide` and `decide_single`, and compare; return the exits."""
    exits = []
    for sample in as_read(policy, readouts)[:, None]:
        state = single_state = policy.initial_state(1)
        for k in range(policy.exits):
            readout = np.ascontiguousarray(sample[:, k])
            decision = policy.decide(k, readout, state)
            single = policy.decide_single(k, readout, single_state)
            assert_same(decision, single)
            state, single_state = decision.state, single[3]
            if single[0]:
                exits.append(k)
                break
    return exits


def assert_same(decision: Decision, single: SingleDecision) -> None:
    exits, score, prediction, state = single
    assert exits is bool(decision.exit_mask[0])
    np.testing.assert_array_equal(score, decision.score.item())  # float64: the score is exact in float32
    np.testing.assert_array_equal(prediction, decision.prediction.item())
    assert (state.dtype, state.shape) == (decision.state.dtype, decision.state.shape)
    np.testing.assert_array_equal(state, decision.state)


@given(kind=kinds, seed=seeds, classes=st.integers(2, 30))
def test_the_decision_on_a_single_sample_is_that_of_a_batch(kind, seed, classes):
    policy = make_policy(kind, seed=seed, classes=classes)
    assert_same_decisions(policy, make_readouts(20, seed=seed, classes=classes))


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_exit_at_every_exit(kind):
    """If they did not, the test above would cover little."""
    exits = [k for seed in range(5) for k in assert_same_decisions(make_policy(kind, seed=seed), make_readouts(60))]
    assert set(exits) == set(range(EXITS))


@given(
    kind=kinds,
    seed=seeds,
    at=st.integers(0, EXITS - 1),
    column=st.integers(0, 3),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_readout_that_is_not_finite_has_the_same_effect(kind, seed, at, column, value):
    """At this exit, and on the state of the later ones."""
    policy = make_policy(kind, seed=seed)
    readouts = make_readouts(4, seed=seed)
    readouts[:2, at, column] = value
    readouts[2:, :, 0] = 1.0  # the exits agree, so that patience, votes and sums go on
    readouts[2, at, column] = value
    assert_same_decisions(policy, readouts)


@given(kind=kinds, seed=seeds, exit_index=st.integers(0, EXITS - 2), step=st.sampled_from([-1, 0, 1]))
def test_a_threshold_beside_a_score_has_the_same_effect(kind, seed, exit_index, step):
    """The neighbours of the score in float32, and the float64 between them."""
    policy = make_policy(kind, seed=seed, thresholds=(None,) * (EXITS - 1))
    readouts = make_readouts(1, seed=seed)
    state = policy.initial_state(1)
    for k in range(exit_index + 1):
        decision = policy.decide(k, as_read(policy, readouts)[:, k], state)
        state = decision.state
    score = decision.score[0]
    neighbour = np.nextafter(score, np.float32(np.inf * step)) if step else score
    for threshold in (float(neighbour), (float(neighbour) + float(score)) / 2):
        thresholds = tuple(threshold if k == exit_index else None for k in range(EXITS - 1))
        tied = make_policy(kind, seed=seed, thresholds=thresholds)
        assert_same_decisions(tied, readouts)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if issubclass(kind, FloatPolicy)])
@given(seed=seeds, p1=st.floats(0, 1, width=32), p2=st.floats(0, 1, width=32), entropy=st.floats(0, 12, width=32))
def test_any_probabilities_have_the_same_decision(kind, seed, p1, p2, entropy):
    """Also where rounding matters: subnormal numbers, and numbers with few common digits."""
    policy = make_policy(kind, seed=seed, thresholds=(None,) * (EXITS - 1))
    readouts = np.tile(np.array([3, p1, p2, entropy], dtype=np.float32), (1, EXITS, 1))
    readouts[0, 2, 0] = 1
    assert_same_decisions(policy, readouts)


def test_a_kind_that_is_derived_from_another_one_has_its_own_score():
    class Doubt(Confidence, frozen=True, kw_only=True, tag="doubt"):
        def score(self, exit_index, readout, state):
            return 1 - readout[:, 1], state

    policy = Doubt(temperatures=(1.0, 1.0), thresholds=(0.75,))
    readout = np.array([[2, 0.25, 0.2, 1]], dtype=np.float32)
    decision = policy.decide_single(0, readout, policy.initial_state(1))
    assert decision[:2] == (True, 0.75)


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_every_sample_exits_at_the_final_exit_whatever_its_score(score):
    class Constant(FloatPolicy, frozen=True, kw_only=True, tag="constant"):
        def score(self, exit_index, readout, state):
            return np.full(len(readout), score, dtype=np.float32), state

        def score_single(self, exit_index, row, state):
            return score, row[0], state

    policy = Constant(temperatures=(1.0,) * 3, thresholds=(0.5, None))
    readouts = np.tile(np.array([3, 0.5, 0.2, 1], dtype=np.float32), (1, 3, 1))
    assert assert_same_decisions(policy, readouts) == [0 if score > 0 else 2]


@given(a=finite32, b=finite32)
def test_sums_and_products_of_python_floats_round_as_numpy_does(a, b):
    one, other = np.float32(a), np.float32(b)
    with np.errstate(all="ignore"):
        for exact, rounded in (
            (a + b, one + other),
            (a - b, one - other),
            (a * b, one * other),
            *([(a / b, one / other)] if b else []),
        ):
            assert np.float32(float32(exact)).tobytes() == rounded.tobytes()

"""EENet, PCEE and CATs, whose scores are fitted."""

import math

import numpy as np
import pytest

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.cats import Cats
from edgeexit.policies.eenet import Eenet
from edgeexit.policies.pcee import Pcee
from tests.policies.policy_examples import make_policy, make_readouts


def test_eenet_s_worked_example_of_thresholds():
    """Scores, thresholds and exits as published: ties leave, later exits see the survivors."""
    q_0 = [0.95, 0.30, 0.80, 0.55, 0.99, 0.20, 0.70, 0.60, 0.45, 0.10]
    q_1 = [0.97, 0.60, 0.85, 0.92, 0.99, 0.40, 0.75, 0.50, 0.88, 0.35]
    readouts = np.zeros((10, 3, 4 + 6), dtype=np.float32)
    readouts[:, 0, 1], readouts[:, 1, 1] = q_0, q_1
    policy = Eenet(  # that starts at the identity on max p
        temperatures=(1.0,) * 3,
        thresholds=(0.80, 0.60),
        class_weights=((0.0,) * 6,) * 2,
        statistic_weights=((1.0, 0.0), (1.0, 0.0, 0.0)),
    )
    exits = simulate_exits(policy, readouts)
    np.testing.assert_array_equal(exits, [0, 1, 0, 1, 0, 2, 1, 2, 1, 2])
    assert np.array([1, 2, 3])[exits].mean() == 2.0


def test_eenet_s_score_is_linear_in_probabilities_statistics_and_past_scores():
    policy = make_policy("eenet", exits=4, classes=5, seed=2)
    readouts = make_readouts(50, exits=4, classes=5, seed=4)
    p = readouts[:, :, 4:].astype(np.float64)
    certainty = 1 + (p * np.log(p + 1e-30)).sum(axis=2) / math.log(5)
    past: list[np.ndarray] = []
    scores = simulate(policy, readouts).scores
    for k in range(3):
        statistics = np.column_stack([p[:, k].max(axis=1), certainty[:, k], *past])
        past.append(p[:, k] @ np.array(policy.class_weights[k]) + statistics @ np.array(policy.statistic_weights[k]))
        np.testing.assert_allclose(scores[:, k], past[k], atol=1e-5)
    np.testing.assert_array_equal(scores[:, 3], readouts[:, 3, 1])


def test_pcee_s_score_is_the_accuracy_of_the_bin_and_not_the_confidence():
    policy = Pcee(
        temperatures=(1.0,) * 3, thresholds=(0.5, 0.9), accuracies=((0.1, 0.2, 0.6, 0.3), (0.0, 0.0, 0.9, 1.0))
    )
    readouts = np.zeros((6, 3, 4), dtype=np.float32)
    readouts[:, 0, 1] = readouts[:, 1, 1] = [0, 0.24, 0.25, 0.5, 0.75, 1]
    scores = simulate(policy, readouts).scores
    np.testing.assert_allclose(scores[:, 0], [0.1, 0.1, 0.2, 0.6, 0.3, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(simulate_exits(policy, readouts), [2, 2, 2, 0, 1, 1])


def test_a_confidence_that_rounding_pushed_out_of_bounds_falls_in_the_nearest_bin():
    policy = Pcee(temperatures=(1.0,) * 2, thresholds=(0.5,), accuracies=((0.25, 0.75),))
    readouts = np.zeros((2, 2, 4), dtype=np.float32)
    readouts[:, 0, 1] = [-1e-6, 1 + 1e-6]
    np.testing.assert_array_equal(simulate(policy, readouts).scores[:, 0], [0.25, 0.75])


def test_cats_score_is_a_sigmoid_of_confidence_margin_and_entropy():
    policy = Cats(temperatures=(1.0,) * 2, thresholds=(0.5,), weights=((2.0, -3.0, 0.7),), biases=(-0.4,))
    readouts = make_readouts(30, exits=2, seed=5)[:, :, :4]
    p1, p2, entropy = readouts[:, 0, 1:].T.astype(np.float64)
    expected = 1 / (1 + np.exp(-(2 * p1 - 3 * (p1 - p2) + 0.7 * entropy - 0.4)))
    np.testing.assert_allclose(simulate(policy, readouts).scores[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(("bias", "score"), [(1e6, 1), (-1e6, 0)])
def test_cats_of_an_extreme_bias_neither_overflows_nor_warns(bias, score, recwarn):
    policy = Cats(temperatures=(1.0,) * 2, thresholds=(0.5,), weights=((1.0, 1.0, 1.0),), biases=(bias,))
    assert simulate(policy, make_readouts(1, exits=2)[:, :, :4]).scores[0, 0] == score
    assert not recwarn

"""ZTW: the ensemble, its scores and its predictions."""

import numpy as np
import pytest

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.ztw import Ztw
from tests.policies.policy_examples import make_policy, make_readouts


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


def test_the_prediction_is_the_ensemble_s_when_two_exits_outweigh_the_newest():
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


def test_exits_that_give_each_other_s_class_a_probability_of_zero_have_a_score():
    readouts = np.zeros((1, 3, 6), dtype=np.float32)
    readouts[0, :, 4:] = [[1, 0], [0, 1], [0, 1]]
    policy = Ztw(
        temperatures=(1.0,) * 3, thresholds=(None, 0.4), weights=((9.0,), (9.0, 9.0)), biases=((0.0, 0.0),) * 2
    )
    assert simulate(policy, readouts).scores[0, 1] == pytest.approx(0.5)

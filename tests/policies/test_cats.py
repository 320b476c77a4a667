"""CATs: its logistic score."""

import numpy as np
import pytest

from edgeexit.policies import simulate
from edgeexit.policies.cats import Cats
from tests.policies.policy_examples import make_readouts


def test_the_score_is_a_sigmoid_of_confidence_margin_and_entropy():
    policy = Cats(temperatures=(1.0,) * 2, thresholds=(0.5,), weights=((2.0, -3.0, 0.7),), biases=(-0.4,))
    readouts = make_readouts(30, exits=2, seed=5)[:, :, :4]
    p1, p2, entropy = readouts[:, 0, 1:].T.astype(np.float64)
    expected = 1 / (1 + np.exp(-(2 * p1 - 3 * (p1 - p2) + 0.7 * entropy - 0.4)))
    np.testing.assert_allclose(simulate(policy, readouts).scores[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(("bias", "score"), [(1e6, 1), (-1e6, 0)])
def test_an_extreme_bias_neither_overflows_nor_warns(bias, score, recwarn):
    policy = Cats(temperatures=(1.0,) * 2, thresholds=(0.5,), weights=((1.0, 1.0, 1.0),), biases=(bias,))
    assert simulate(policy, make_readouts(1, exits=2)[:, :, :4]).scores[0, 0] == score
    assert not recwarn

"""Entropy: the certainty, and BranchyNet's thresholds."""

import math

import numpy as np

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.entropy import Entropy


def test_the_score_is_one_minus_the_entropy_divided_by_its_maximum():
    policy = Entropy(temperatures=(1.0,) * 2, thresholds=(0.5,), classes=10)
    readouts = np.zeros((3, 2, 4), dtype=np.float32)
    readouts[:, 0, 3] = [0, math.log(10) / 4, math.log(10)]
    np.testing.assert_allclose(simulate(policy, readouts).scores[:, 0], [1, 0.75, 0], atol=1e-6)


def test_branchynet_s_threshold_on_the_entropy_is_equivalent_to_one_on_the_score():
    entropies = np.linspace(0, math.log(7), 40)
    readouts = np.zeros((40, 2, 4), dtype=np.float32)
    readouts[:, 0, 3] = entropies
    policy = Entropy(temperatures=(1.0,) * 2, thresholds=(1 - 0.6 / math.log(7),), classes=7)
    np.testing.assert_array_equal(simulate_exits(policy, readouts) == 0, entropies <= 0.6)

"""Margin: the difference of the two highest probabilities."""

import numpy as np

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.margin import Margin


def test_the_score_is_the_difference_of_the_two_highest_probabilities():
    readouts = np.zeros((2, 2, 4), dtype=np.float32)
    readouts[:, 0, 1:3] = [[0.5, 0.25], [0.5, 0.375]]
    policy = Margin(temperatures=(1.0,) * 2, thresholds=(0.25,))
    np.testing.assert_array_equal(simulate(policy, readouts).scores[:, 0], [0.25, 0.125])
    np.testing.assert_array_equal(simulate_exits(policy, readouts), [0, 1])

"""PCEE: bins of confidence."""

import numpy as np

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.pcee import Pcee


def test_the_score_is_the_accuracy_of_the_bin_of_the_confidence():
    policy = Pcee(
        temperatures=(1.0,) * 3, thresholds=(0.5, 0.9), accuracies=((0.1, 0.2, 0.6, 0.3), (0.0, 0.0, 0.9, 1.0))
    )
    readouts = np.zeros((6, 3, 4), dtype=np.float32)
    readouts[:, 0, 1] = readouts[:, 1, 1] = [0, 0.24, 0.25, 0.5, 0.75, 1]
    scores = simulate(policy, readouts).scores
    np.testing.assert_allclose(scores[:, 0], [0.1, 0.1, 0.2, 0.6, 0.3, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(simulate_exits(policy, readouts), [2, 2, 2, 0, 1, 1])


def test_a_confidence_outside_zero_to_one_by_rounding_is_in_the_nearest_bin():
    policy = Pcee(temperatures=(1.0,) * 2, thresholds=(0.5,), accuracies=((0.25, 0.75),))
    readouts = np.zeros((2, 2, 4), dtype=np.float32)
    readouts[:, 0, 1] = [-1e-6, 1 + 1e-6]
    np.testing.assert_array_equal(simulate(policy, readouts).scores[:, 0], [0.25, 0.75])

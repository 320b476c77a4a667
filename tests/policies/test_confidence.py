"""Confidence: thresholds, ties, and null."""

import numpy as np

from edgeexit.policies import simulate_exits
from edgeexit.policies.confidence import Confidence


def test_a_sample_exits_at_the_first_exit_whose_score_is_at_least_its_threshold():
    confidences = np.array([[0.9, 0.1, 0.1], [0.5, 0.8, 0.1], [0.5, 0.79, 0.99]], dtype=np.float32)
    readouts = np.zeros((3, 3, 4), dtype=np.float32)
    readouts[:, :, 1] = confidences
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.9, 0.8))
    np.testing.assert_array_equal(simulate_exits(policy, readouts), [0, 1, 2])


def test_no_sample_exits_at_a_threshold_of_null():
    readouts = np.ones((4, 2, 4), dtype=np.float32)
    policy = Confidence(temperatures=(1.0, 1.0), thresholds=(None,))
    np.testing.assert_array_equal(simulate_exits(policy, readouts), [1, 1, 1, 1])

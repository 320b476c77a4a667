"""EENet: its score and the worked example of its paper."""

import math

import numpy as np

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.eenet import Eenet
from tests.policies.policy_examples import make_policy, make_readouts


def test_the_worked_example_of_the_paper():
    """Scores, thresholds and exits as published: a score equal to the threshold exits."""
    q_0 = [0.95, 0.30, 0.80, 0.55, 0.99, 0.20, 0.70, 0.60, 0.45, 0.10]
    q_1 = [0.97, 0.60, 0.85, 0.92, 0.99, 0.40, 0.75, 0.50, 0.88, 0.35]
    readouts = np.zeros((10, 3, 4 + 6), dtype=np.float32)
    readouts[:, 0, 1], readouts[:, 1, 1] = q_0, q_1
    policy = Eenet(  # the score is max p
        temperatures=(1.0,) * 3,
        thresholds=(0.80, 0.60),
        class_weights=((0.0,) * 6,) * 2,
        statistic_weights=((1.0, 0.0), (1.0, 0.0, 0.0)),
    )
    exits = simulate_exits(policy, readouts)
    np.testing.assert_array_equal(exits, [0, 1, 0, 1, 0, 2, 1, 2, 1, 2])
    assert np.array([1, 2, 3])[exits].mean() == 2.0


def test_the_score_is_linear_in_probabilities_statistics_and_earlier_scores():
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

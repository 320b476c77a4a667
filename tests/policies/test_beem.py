"""BEEM: worked examples of the paper's rule, and its state."""

import math

import numpy as np
import pytest

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.beem import Beem
from edgeexit.policies.readout import Array

INF = math.inf
VECTORS = [
    ("AAAA", [0.65, 0.70, 0.80, 0.90], [0.1, 0.2, 0.3, 0.4], [0.2] * 3, [0.065, 0.205], 1),
    ("AABBB", [0.9, 0.8, 0.6, 0.9, 0.95], [0.60, 0.70, 0.80, 0.85, 0.90], [1.2] * 4, [0.54, 1.10, 0.48, 1.245], 3),
    ("ABAB", [0.70, 0.99, 0.80, 0.55], [0.25, 0.5, 0.75, 1], [0.20, INF, 0.90], [0.175, 0.495, 0.60, 0.55], 3),
    ("ABBB", [0.70, 0.99, 0.80, 0.55], [0.25, 0.5, 0.75, 1], [0.20, INF, 0.90], [0.175, 0.495, 1.095], 2),
]


def readouts_of(predictions: str, confidences: list[float]) -> Array:
    rows = [[ord(letter) - ord("A"), c, 0.0, 0.0] for letter, c in zip(predictions, confidences, strict=True)]
    return np.array([rows], dtype=np.float32)


@pytest.mark.parametrize(("predictions", "confidences", "weights", "thresholds", "sums", "exits_at"), VECTORS)
def test_sums_and_exits_of_the_worked_examples(predictions, confidences, weights, thresholds, sums, exits_at):
    policy = Beem(
        temperatures=(1.0,) * len(weights),
        thresholds=tuple(None if math.isinf(t) else t for t in thresholds),
        weights=tuple(weights),
    )
    readouts = readouts_of(predictions, confidences)
    np.testing.assert_allclose(simulate(policy, readouts).scores[0, : len(sums)], sums, rtol=1e-6)
    assert simulate_exits(policy, readouts)[0] == exits_at


def test_removing_the_rows_of_exited_samples_keeps_the_state_of_the_others():
    """Deciding a batch, and then only the samples that continue, equals deciding each sample alone."""
    random = np.random.default_rng(0)
    readouts = np.stack(
        [random.integers(0, 2, (64, 5)), random.random((64, 5)), np.zeros((64, 5)), np.zeros((64, 5))], axis=-1
    ).astype(np.float32)
    policy = Beem(temperatures=(1.0,) * 5, thresholds=(0.5, 0.6, 0.9, 1.0), weights=(0.6, 0.7, 0.8, 0.85, 0.9))
    exits = np.full(64, -1)
    remaining, state = np.arange(64), policy.initial_state(64)
    for k in range(5):
        decision = policy.decide(k, readouts[remaining, k], state)
        exits[remaining[decision.exit_mask]] = k
        remaining, state = remaining[~decision.exit_mask], decision.state[~decision.exit_mask]
    np.testing.assert_array_equal(exits, simulate_exits(policy, readouts))
    assert len(np.unique(exits)) == 5

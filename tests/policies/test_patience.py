"""Patience: counts, and BEEM as patience."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.beem import Beem
from edgeexit.policies.patience import Patience
from edgeexit.policies.readout import Array


def readouts_of(*predictions: list[int]) -> Array:
    """Return readouts [N, K, 4] of these classes, each with a confidence of 1."""
    readouts = np.zeros((len(predictions), len(predictions[0]), 4), dtype=np.float32)
    readouts[:, :, 0] = predictions
    readouts[:, :, 1] = 1
    return readouts


def test_the_score_counts_consecutive_exits_with_the_same_prediction():
    policy = Patience(temperatures=(1.0,) * 6, thresholds=(2.0,) * 5)
    readouts = readouts_of([3, 3, 3, 3, 3, 3], [0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 2], [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(
        simulate(policy, readouts).scores, [[0, 1, 2, 3, 4, 5], [0, 0, 1, 0, 1, 2], [0, 1, 0, 1, 2, 0], [0] * 6]
    )
    np.testing.assert_array_equal(simulate_exits(policy, readouts), [2, 5, 4, 5])


@given(
    predictions=st.lists(st.lists(st.integers(0, 2), min_size=7, max_size=7), min_size=1, max_size=30),
    patience=st.integers(0, 7),
)
def test_beem_with_confidences_and_weights_of_one_is_patience(predictions, patience):
    readouts = readouts_of(*predictions)
    ones = (1.0,) * 7
    plain = Patience(temperatures=ones, thresholds=(float(patience),) * 6)
    beem = Beem(temperatures=ones, thresholds=(float(patience + 1),) * 6, weights=ones)
    np.testing.assert_array_equal(simulate(beem, readouts).scores, simulate(plain, readouts).scores + 1)
    np.testing.assert_array_equal(simulate_exits(beem, readouts), simulate_exits(plain, readouts))

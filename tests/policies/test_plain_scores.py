"""Entropy, margin, patience and BEEM as patience."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.policies import simulate, simulate_exits
from edgeexit.policies.beem import Beem
from edgeexit.policies.entropy import Entropy
from edgeexit.policies.margin import Margin
from edgeexit.policies.patience import Patience
from edgeexit.policies.readout import Array


def readouts_of(*predictions: list[int]) -> Array:
    """Return readouts [N, K, 4] of these classes, each with full confidence."""
    readouts = np.zeros((len(predictions), len(predictions[0]), 4), dtype=np.float32)
    readouts[:, :, 0] = predictions
    readouts[:, :, 1] = 1
    return readouts


def test_the_certainty_is_one_less_the_entropy_as_a_share_of_the_highest():
    policy = Entropy(temperatures=(1.0,) * 2, thresholds=(0.5,), classes=10)
    readouts = np.zeros((3, 2, 4), dtype=np.float32)
    readouts[:, 0, 3] = [0, math.log(10) / 4, math.log(10)]
    np.testing.assert_allclose(simulate(policy, readouts).scores[:, 0], [1, 0.75, 0], atol=1e-6)


def test_branchynet_s_threshold_on_the_entropy_becomes_one_on_the_certainty():
    entropies = np.linspace(0, math.log(7), 40)
    readouts = np.zeros((40, 2, 4), dtype=np.float32)
    readouts[:, 0, 3] = entropies
    policy = Entropy(temperatures=(1.0,) * 2, thresholds=(1 - 0.6 / math.log(7),), classes=7)
    np.testing.assert_array_equal(simulate_exits(policy, readouts) == 0, entropies <= 0.6)


def test_the_margin_is_what_the_first_class_is_ahead_of_the_second():
    readouts = np.zeros((2, 2, 4), dtype=np.float32)
    readouts[:, 0, 1:3] = [[0.5, 0.25], [0.5, 0.375]]
    policy = Margin(temperatures=(1.0,) * 2, thresholds=(0.25,))
    np.testing.assert_array_equal(simulate(policy, readouts).scores[:, 0], [0.25, 0.125])
    np.testing.assert_array_equal(simulate_exits(policy, readouts), [0, 1])


def test_patience_counts_how_often_in_a_row_the_prediction_stayed():
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
def test_beem_of_full_confidences_and_weights_of_one_is_patience(predictions, patience):
    readouts = readouts_of(*predictions)
    ones = (1.0,) * 7
    plain = Patience(temperatures=ones, thresholds=(float(patience),) * 6)
    beem = Beem(temperatures=ones, thresholds=(float(patience + 1),) * 6, weights=ones)
    np.testing.assert_array_equal(simulate(beem, readouts).scores, simulate(plain, readouts).scores + 1)
    np.testing.assert_array_equal(simulate_exits(beem, readouts), simulate_exits(plain, readouts))

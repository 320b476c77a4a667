"""Positions in the ranking of samples, and their thresholds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.fitting.ranking import Ranking, shortest_between


@given(st.floats(-8, 8, width=32), st.floats(-8, 8, width=32))
def test_thresholds_lie_between_scores_also_as_float32(first, second):
    low, high = sorted((first, second))
    if low < high:
        assert low < np.float32(shortest_between(low, high)) <= high


def test_thresholds_have_few_decimals():
    assert shortest_between(2.0, 3.0) == 3
    assert shortest_between(0.8123, 0.8971) == 0.85
    assert shortest_between(0.61, 0.97) == 0.8
    assert shortest_between(float(np.nextafter(np.float32(1), np.float32(0))), 1.0) == 1.0


def test_if_all_samples_exit_new_samples_with_lower_scores_exit_too():
    ranking = Ranking(np.array([[0.4, -2.0, 1.0], [0.9, 3.0, 1.0]], dtype=np.float32))
    assert ranking.thresholds(ranking.loosest) == (0.0, -2.0)
    assert ranking.thresholds((0, 0)) == (None, None)

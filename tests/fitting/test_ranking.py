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
    below = np.nextafter(np.float32(1), np.float32(0))
    assert below < np.float32(shortest_between(float(below), 1.0)) <= 1


@given(st.floats(0.0078125, 0.9921875, width=32), st.floats(0.0078125, 0.9921875, width=32))
def test_a_rounding_error_in_a_score_does_not_change_an_exit(first, second):
    low, high = sorted((first, second))
    threshold, error = np.float32(shortest_between(low, high)), (high - low) / 5
    if error > 1e-6:
        assert np.float32(low + error) < threshold <= np.float32(high - error)


def test_no_threshold_separates_scores_that_differ_by_rounding_errors_if_others_are_near():
    scores = np.array([0.9, 0.8, np.nextafter(np.float32(0.8), np.float32(0)), 0.5], dtype=np.float32)
    assert Ranking(np.stack([scores, scores], axis=1)).possible[0].tolist() == [0, 1, 3, 4]


def test_in_a_long_row_of_such_scores_some_positions_remain_possible():
    steps = np.full(1000, np.spacing(np.float32(0.5)), dtype=np.float64)
    steps[::2] *= 2  # the wider gaps
    scores = (0.5 + steps.cumsum()[::-1]).astype(np.float32)
    possible = Ranking(np.stack([scores, scores], axis=1)).possible[0]
    assert 1000 / 8 <= len(possible) <= 1000 / 2 + 2
    assert np.diff(possible).max() <= 16


def test_if_all_samples_exit_new_samples_with_lower_scores_exit_too():
    ranking = Ranking(np.array([[0.4, -2.0, 1.0], [0.9, 3.0, 1.0]], dtype=np.float32))
    assert ranking.thresholds(ranking.loosest) == (0.0, -2.001)
    assert ranking.thresholds((0, 0)) == (None, None)

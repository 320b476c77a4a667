"""Exit fractions and their thresholds."""

import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting.exit_fractions import fractions_within_budget, thresholds_for_fractions
from edgeexit.policies import exit_rates, exits_of
from edgeexit.policies.readout import Array

FIRST = [0.95, 0.30, 0.80, 0.55, 0.99, 0.20, 0.70, 0.60, 0.45, 0.10]
SECOND = [0.97, 0.60, 0.85, 0.92, 0.99, 0.40, 0.75, 0.50, 0.88, 0.35]


def scores_of_worked_example() -> Array:
    return np.array([FIRST, SECOND, [1.0] * 10], dtype=np.float32).T


def test_thresholds_of_a_worked_example():
    scores = scores_of_worked_example()
    thresholds = thresholds_for_fractions(scores, [0.3, 0.4, 0.3])
    assert thresholds == pytest.approx((0.80, 0.60))
    exits = exits_of(scores, thresholds)
    assert exits.tolist() == [0, 1, 0, 1, 0, 2, 1, 2, 1, 2]
    assert np.array([1.0, 2.0, 3.0])[exits].mean() == 2.0


def test_a_fraction_of_zero_gives_none_and_rounding_loses_no_sample():
    scores = np.random.default_rng(0).random((100, 3)).astype(np.float32)
    assert thresholds_for_fractions(scores, [0.0, 0.009, 0.991]) == (None, None)
    thresholds = thresholds_for_fractions(scores, [0.29, 0.71, 0.0])  # 0.29 * 100 is 28.999999999999996
    assert exit_rates(exits_of(scores, thresholds), 3) == (0.29, 0.71, 0.0)


def test_equal_scores_exit_together_and_later_exits_get_none():
    scores = np.full((8, 3), 0.5, dtype=np.float32)
    assert thresholds_for_fractions(scores, [0.25, 0.5, 0.25]) == (0.5, None)


def test_samples_move_to_earlier_exits_if_rounding_exceeds_the_budget():
    fractions, costs = [0.4363, 0.3236, 0.2401], [1.0, 2.0, 4.0]
    assert fractions_within_budget(fractions, 10, costs, 2.2) == (0.4, 0.3, 0.3)
    assert fractions_within_budget(fractions, 10, costs, 2.0) == (0.4, 0.4, 0.2)
    assert fractions_within_budget(fractions, 10, costs, 1.0) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("budget", [1.0, 1.37, 2.9, 3.7, 4.0])
def test_realised_cost_is_within_the_budget(budget):
    random = np.random.default_rng(3)
    costs = np.array([1.0, 1.3, 2.9, 4.0])
    for samples in (1, 7, 333):
        scores = random.random((samples, 4)).astype(np.float32)
        fractions = fractions_within_budget(random.dirichlet(np.ones(4)), samples, costs, budget)
        assert costs[exits_of(scores, thresholds_for_fractions(scores, fractions))].mean() <= budget + 1e-12


def test_a_budget_below_the_first_exit_and_invalid_fractions_are_refused():
    with pytest.raises(FittingError, match="first exit alone costs 1"):
        fractions_within_budget([0.5, 0.5], 10, [1.0, 2.0], 0.9)
    for fractions in ([0.5, 0.4], [1.2, -0.2], [1.0], [float("nan"), 1.0]):
        with pytest.raises(FittingError, match="sum to 1"):
            thresholds_for_fractions(scores_of_worked_example()[:, :2], fractions)

"""BEEM: its weights, its two rules, and its method for a budget."""

import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import Budget, FitOptions, expect, fit_policy
from edgeexit.fitting.kinds.beem import beem_policy, error_rate_rule, lowest_threshold, paired_rule
from edgeexit.fitting.options import CandidateOptions
from tests.fitting.only_candidate import only_candidate
from tests.fitting.populations import of_predictions, of_readouts, population, readout

S = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]


WRONG = [0, 0, 1, 0, 0, 1, 1, 0]


def two_exits():
    """Return a dataset of two exits: the first has scores S and is WRONG or not, the second is always right."""
    return of_predictions([[wrong, 0] for wrong in WRONG], [[s, 0.99] for s in S], [0] * 8)


def approx(thresholds):
    return pytest.approx(thresholds, abs=1e-6)


def test_the_default_weights_are_the_accuracies_of_the_exits():
    weights = only_candidate("beem", population(500, seed=3, labels=False)).weights
    assert weights[-1] == 1.0
    assert list(weights) == sorted(weights)


def test_an_exit_that_is_never_right_still_has_a_weight():
    dataset = of_readouts([[readout(0.9, 0.1, top1=1), readout(0.9, 0.1)]] * 4, labels=[0, 0, 0, 0])
    assert only_candidate("beem", dataset).weights == (0.001, 1.0)


def test_cost_weights_grow_with_depth_to_one():
    options = CandidateOptions(budget=2.0, temperatures=False, weights="cost")
    assert only_candidate("beem", population(50, seed=3), options).weights == (0.25, 0.5, 0.75, 1.0)


def test_weights_can_be_given_as_numbers():
    options = CandidateOptions(budget=2.0, temperatures=False, weights=(1, 2, 3, 4))
    assert only_candidate("beem", population(50, seed=3), options).weights == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("depth", "weights 'depth' are unknown; give accuracy, cost, or 4 numbers above 0"),
        ((1.0, 2.0), r"weights \[1.0, 2.0\] must be 4 finite numbers above 0"),
        ((1.0, 2.0, 0.0, 1.0), "weights holds 0 where finite numbers above 0"),
        ((1.0, 2.0, float("nan"), 1.0), "weights holds nan where"),
        ((1.0, 2.0, 1e40, 1.0), r"weights holds 1e\+40 where"),
    ],
)
def test_unusable_weights_are_refused(weights, message):
    with pytest.raises(FittingError, match=message):
        fit_policy("beem", population(50, seed=3), Budget(cost=2.0), FitOptions(weights=weights))


def test_the_error_rate_rule_checks_all_thresholds():
    """The error rate exceeds 1/4 at .7 (1/3), is 1/4 at .6 and 1/5 at .5, and above 1/4 at lower thresholds."""
    policy = error_rate_rule(two_exits(), (1.0, 1.0), error_rate=0.25)
    assert policy.thresholds == approx((0.45,))


def test_the_error_rate_is_the_final_exit_s_by_default():
    """The final exit is always right: the rate is 0, and only .9 and .8 exit."""
    assert error_rate_rule(two_exits(), (1.0, 1.0)).thresholds == approx((0.75,))


def test_equal_scores_exit_together():
    """Two samples have score .5 and one of them is wrong: neither can exit, since both would."""
    scores, excess = np.array([0.9, 0.5, 0.5], dtype=np.float32), np.array([0.0, 0.0, 1.0])
    assert lowest_threshold(scores, excess) == approx(0.7)
    assert lowest_threshold(scores[1:], excess[1:]) is None
    assert lowest_threshold(scores[:0], excess[:0]) is None


def test_later_thresholds_are_chosen_over_the_remaining_samples():
    """Samples 0 and 1 exit at exit 0. Of 2 and 3 at exit 1, the more confident one is wrong: none exits."""
    classes = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 2, 0]]
    p1 = [[0.9, 0.9, 0.9], [0.8, 0.9, 0.9], [0.7, 0.5, 0.9], [0.6, 0.95, 0.9]]
    dataset = of_predictions(classes, p1, [0] * 4)
    assert error_rate_rule(dataset, (1.0,) * 3).thresholds == (approx(0.75), None)


def counterexample():
    """Exit 0 is confident of 150 samples and wrong on 12; the final exit is wrong on 3, and on 22 of 100 others."""
    first = [1] * 12 + [0] * 138 + [1] * 100
    final = [2] * 3 + [0] * 147 + [2] * 22 + [0] * 78
    return of_predictions(np.stack([first, final], axis=1), [[0.9, 0.9]] * 150 + [[0.3, 0.9]] * 100, [0] * 250)


def test_the_error_rate_rule_does_not_bound_the_total_error_rate_and_the_paired_rule_does():
    dataset = counterexample()
    published = error_rate_rule(dataset, (1.0, 1.0))
    expected = expect(published, dataset)
    assert expected.exit_rates == (0.6, 0.4)
    assert expected.final_loss == pytest.approx(0.1)
    assert expected.mean_loss == pytest.approx(0.136)
    assert paired_rule(dataset, (1.0, 1.0)).thresholds == (None,)


def test_the_paired_rule_carries_saved_errors_to_later_exits():
    """Sample 0 exits right where the final exit is wrong; so sample 1 can exit wrong at exit 1."""
    classes = [[0, 0, 1], [2, 1, 0], [2, 3, 0]]
    p1 = [[0.9, 0.9, 0.9], [0.5, 0.8, 0.9], [0.5, 0.7, 0.9]]
    policy = paired_rule(of_predictions(classes, p1, [0] * 3), (1.0,) * 3)
    assert policy.thresholds == approx((0.7, 0.75))
    without = of_predictions([[0, 0, 0], *classes[1:]], p1, [0] * 3)
    assert paired_rule(without, (1.0,) * 3).thresholds == (approx(0.7), None)


@pytest.mark.parametrize("weights", ["accuracy", "cost"])
def test_the_paired_rule_saves_cost_without_more_errors_on_the_fitting_samples(weights):
    dataset = population(3000, seed=1)
    expected = expect(paired_rule(dataset, weights), dataset)
    assert expected.mean_loss <= expected.final_loss
    assert expected.mean_cost < 2.5


def test_the_method_for_a_budget_takes_the_lowest_error_rate_within_it():
    """Half of the samples must exit early; at an error rate of 1/5 five do, at a mean cost of 1.375."""
    dataset = two_exits()
    policy = beem_policy(dataset, 1.5, (1.0, 1.0))
    assert policy.thresholds == approx((0.45,))
    assert beem_policy(dataset, 1.75, (1.0, 1.0)).thresholds == approx((0.75,))
    assert beem_policy(dataset, 1.0, (1.0, 1.0)).thresholds == approx((0.1,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error_rate": 1.5}, "error rate 1.5 "),
        ({"weights": "depth"}, "weights 'depth' are unknown"),
    ],
)
def test_unusable_options_of_the_error_rate_rule_are_refused(options, message):
    with pytest.raises(FittingError, match=message):
        error_rate_rule(two_exits(), **options)

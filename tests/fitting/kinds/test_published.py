"""Published recipes, on numbers worked by hand."""

from itertools import product

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import MapLosses, ReadoutDataset, expect
from edgeexit.fitting.kinds.beem import beem_policy, error_rate_rule, lowest_threshold, paired_rule
from edgeexit.fitting.kinds.cats import cats_rule, conformal_threshold
from edgeexit.fitting.kinds.confidence import msdnet_policy
from edgeexit.fitting.kinds.entropy import ENTROPIES, branchynet_policy
from edgeexit.fitting.kinds.patience import pabee_policy
from edgeexit.fitting.kinds.pcee import pcee_rule
from edgeexit.policies import exits_of, simulate
from tests.fitting.populations import population

S = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
WRONG = [0, 0, 1, 0, 0, 1, 1, 0]


def handmade(classes, p1, labels, entropy=0.5):
    """Evidence of classes and top-1 probabilities [N][K]; exit k costs k + 1; there are 10 classes."""
    classes, p1 = np.array(classes), np.array(p1, dtype=float)
    samples, exits = classes.shape
    readouts = np.zeros((samples, exits, 14), dtype=np.float32)
    readouts[:, :, 0], readouts[:, :, 1], readouts[:, :, 3] = classes, p1, entropy
    return ReadoutDataset(
        readouts=readouts,
        costs=tuple(float(k + 1) for k in range(exits)),
        temperatures=(1.0,) * exits,
        labels=np.array(labels),
    )


def published_vector():
    """Two exits: the first scores S and is WRONG, the second is always right."""
    return handmade([[wrong, 0] for wrong in WRONG], [[s, 0.99] for s in S], [0] * 8)


def exits_under(policy, dataset):
    return exits_of(simulate(policy, dataset.readouts).scores, policy.thresholds)


def approx(thresholds):
    return pytest.approx(thresholds, abs=1e-6)


def test_beem_error_rate_threshold_scans_all_candidates():
    """The error exceeds 1/4 at .7 (1/3) and is 1/4 at .6 and 1/5 at .5 again, then above for good."""
    policy = error_rate_rule(published_vector(), (1.0, 1.0), error_rate=0.25)
    assert policy.thresholds == approx((0.5,))


def test_beem_error_rate_is_the_final_exits_by_default():
    """The final exit is always right: q = 0, and only .9 and .8 leave."""
    assert error_rate_rule(published_vector(), (1.0, 1.0)).thresholds == approx((0.8,))


def test_beem_ties_leave_together():
    """Two samples of score .5, one of them wrong: neither may leave, since both would."""
    scores, excess = np.array([0.9, 0.5, 0.5], dtype=np.float32), np.array([0.0, 0.0, 1.0])
    assert lowest_threshold(scores, excess) == approx(0.9)
    assert lowest_threshold(scores[1:], excess[1:]) is None
    assert lowest_threshold(scores[:0], excess[:0]) is None


def test_beem_fits_over_the_survivors():
    """Samples 0 and 1 leave at exit 0. Of 2 and 3, that are left at exit 1, the surer is wrong: nothing leaves."""
    classes = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 2, 0]]
    p1 = [[0.9, 0.9, 0.9], [0.8, 0.9, 0.9], [0.7, 0.5, 0.9], [0.6, 0.95, 0.9]]
    dataset = handmade(classes, p1, [0] * 4)
    assert error_rate_rule(dataset, (1.0,) * 3).thresholds == (approx(0.8), None)


def counter_example():
    """Exit 0 is sure of 150 samples and errs on 12, the final exit on 3 of them; of 100 others it errs on 22."""
    first = [1] * 12 + [0] * 138 + [1] * 100
    final = [2] * 3 + [0] * 147 + [2] * 22 + [0] * 78
    return handmade(np.stack([first, final], axis=1), [[0.9, 0.9]] * 150 + [[0.3, 0.9]] * 100, [0] * 250)


def test_beem_error_rate_rule_does_not_protect_the_whole_and_the_paired_rule_does():
    dataset = counter_example()
    published = error_rate_rule(dataset, (1.0, 1.0))
    expected = expect(published, dataset)
    assert expected.exit_rates == (0.6, 0.4)
    assert expected.final_loss == pytest.approx(0.1)
    assert expected.mean_loss == pytest.approx(0.136)
    assert paired_rule(dataset, (1.0, 1.0)).thresholds == (None,)


def test_beem_paired_rule_spends_at_a_later_exit_what_an_earlier_one_has_saved():
    """Sample 0 leaves right at exit 0 where the final exit errs; so sample 1 may leave wrong at exit 1."""
    classes = [[0, 0, 1], [2, 1, 0], [2, 3, 0]]
    p1 = [[0.9, 0.9, 0.9], [0.5, 0.8, 0.9], [0.5, 0.7, 0.9]]
    policy = paired_rule(handmade(classes, p1, [0] * 3), (1.0,) * 3)
    assert policy.thresholds == approx((0.9, 0.8))
    without = handmade([[0, 0, 0], *classes[1:]], p1, [0] * 3)
    assert paired_rule(without, (1.0,) * 3).thresholds == (approx(0.9), None)


@pytest.mark.parametrize("weights", ["accuracy", "cost"])
def test_beem_paired_rule_saves_cost_and_loses_nothing_where_it_was_fitted(weights):
    dataset = population(3000, seed=1)
    expected = expect(paired_rule(dataset, weights), dataset)
    assert expected.mean_loss <= expected.final_loss
    assert expected.mean_cost < 2.5


def test_beem_policy_takes_the_lowest_error_rate_within_the_budget():
    """Half of the samples must leave; an error rate of 1/5 lets five go, at a mean cost of 1.375."""
    dataset = published_vector()
    policy = beem_policy(dataset, 1.5, (1.0, 1.0))
    assert policy.thresholds == approx((0.5,))
    assert beem_policy(dataset, 1.75, (1.0, 1.0)).thresholds == approx((0.8,))
    assert beem_policy(dataset, 1.0, (1.0, 1.0)).thresholds == approx((0.2,))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"error_rate": 1.5}, "error rate 1.5 "),
        ({"weights": "depth"}, "weights 'depth' are unknown"),
    ],
)
def test_beem_refuses_what_it_cannot_mean(options, says):
    with pytest.raises(FittingError, match=says):
        error_rate_rule(published_vector(), **options)


def test_msdnet_shares_are_geometric():
    """At 17/7, r = 2: of 7 samples 1, 2 and 4 leave. At 11/7, r = 1/2: 4, 2 and 1."""
    p1 = [[0.9, 0.3, 0.5], [0.8, 0.9, 0.5], [0.7, 0.4, 0.5], [0.6, 0.8, 0.5], [0.5, 0.7, 0.5], [0.4, 0.6, 0.5]]
    dataset = handmade([[0] * 3] * 7, [*p1, [0.3, 0.5, 0.5]], [0] * 7)
    assert msdnet_policy(dataset, 17 / 7).thresholds == approx((0.9, 0.8))
    assert msdnet_policy(dataset, 11 / 7).thresholds == approx((0.6, 0.6))
    assert list(exits_under(msdnet_policy(dataset, 11 / 7), dataset)) == [0, 0, 0, 0, 1, 1, 2]


def test_msdnet_reaches_both_ends():
    dataset = population(200, seed=1)
    assert (exits_under(msdnet_policy(dataset, 1.0), dataset) == 0).all()
    assert msdnet_policy(dataset, 4.0).thresholds == (None, None, None)
    assert msdnet_policy(dataset, 9.0).thresholds == (None, None, None)


def test_branchynet_screens_its_list():
    """Leaving up to .04 nats is right and costs 1.5 on average: .05 is the first of the list that allows it."""
    dataset = handmade([[0, 0], [0, 0], [1, 0], [1, 0]], [[0.5, 0.5]] * 4, [0] * 4)
    dataset.readouts[:, 0, 3] = [0.005, 0.04, 0.3, 1.5]
    assert branchynet_policy(dataset, 1.5).thresholds == approx((1 - 0.05 / np.log(10),))
    assert branchynet_policy(dataset, 1.4).thresholds == approx((1 - 0.5 / np.log(10),))


@pytest.mark.parametrize("budget", [1.3, 2.1, 3.0])
def test_branchynet_finds_the_best_of_all_combinations(budget):
    dataset = population(300, seed=2, exits=3)
    policy = branchynet_policy(dataset, budget)
    simulation = simulate(policy, dataset.readouts)
    losses, best = dataset.losses(simulation.predictions), np.inf
    for entropies in product(ENTROPIES, repeat=2):
        exits = exits_of(simulation.scores, tuple(float(1 - h / np.log(10)) for h in entropies))
        if (exits + 1).mean() <= budget:
            best = min(best, losses[np.arange(300), exits].mean())
    expected = expect(policy, dataset)
    assert expected.mean_loss == pytest.approx(best)
    assert expected.mean_cost <= budget


def test_branchynet_has_one_entropy_for_very_many_exits():
    dataset = population(300, seed=2, exits=8)
    policy = branchynet_policy(dataset, 3.0)
    assert len(set(policy.thresholds)) == 1
    assert expect(policy, dataset).mean_cost <= 3.0


def test_pabee_takes_the_largest_patience_that_it_can_afford():
    """Patience 1 costs (2 + 3 + 4) / 3, 2 costs (3 + 4 + 4) / 3, 3 is the whole model."""
    dataset = handmade([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1]], [[0.5] * 4] * 3, [0] * 3)
    assert pabee_policy(dataset, 3.2).thresholds == (None, 1.0, 1.0)
    assert list(exits_under(pabee_policy(dataset, 3.2), dataset)) == [1, 2, 3]
    assert pabee_policy(dataset, 3.7).thresholds == (None, None, 2.0)
    assert pabee_policy(dataset, 4.0).thresholds == (None, None, None)
    with pytest.raises(FittingError, match=r"2\.9 cannot be reached: a patience of 1 costs 3"):
        pabee_policy(dataset, 2.9)


@pytest.mark.parametrize("build_config", [msdnet_policy, branchynet_policy, pabee_policy, beem_policy])
@pytest.mark.parametrize("budget", [2.4, 2.8, 3.3, 3.9])
def test_budgets_are_kept_where_they_were_fitted(build_config, budget):
    dataset = population(1001, seed=3)
    expected = expect(build_config(dataset, budget), dataset)
    assert expected.mean_cost <= budget + 1e-9
    assert expected.mean_loss < 0.5


@pytest.mark.parametrize("build_config", [msdnet_policy, branchynet_policy, pabee_policy, beem_policy])
def test_a_budget_below_the_first_exit_says_what_the_least_is(build_config):
    with pytest.raises(FittingError, match=r"0\.5 cannot be reached: .* [0-9]"):
        build_config(population(100, seed=3), 0.5)


def test_cats_threshold_is_the_corrected_quantile_of_the_highest_score_that_disagrees():
    """Nine samples in danger, highest scores .1 to .9: the 8th of them for eps .2; ten would be needed for .05."""
    scores = np.stack([np.arange(1, 10) / 10, np.full(9, 0.05)], axis=1).astype(np.float32)
    scores = np.concatenate([scores, [[0.99, 0.99]]]).astype(np.float32)
    disagrees = np.array([[True, True]] * 9 + [[False, False]])
    threshold = conformal_threshold(scores, disagrees, 0.2)
    assert threshold == approx(0.8)
    assert threshold > np.float32(0.8)  # a sample leaves strictly above
    assert conformal_threshold(scores, disagrees, 0.05) is None


def test_cats_threshold_heeds_only_the_exits_that_disagree():
    scores = np.array([[0.2, 0.9]] * 9, dtype=np.float32)
    assert conformal_threshold(scores, np.array([[True, False]] * 9), 0.2) == approx(0.2)


def test_cats_rule_keeps_to_eps_and_saves_cost():
    fresh = population(20_000, seed=99)
    outcomes = [expect(cats_rule(population(600, seed=seed), 0.1), fresh) for seed in range(20)]
    assert np.mean([outcome.disagreement for outcome in outcomes]) <= 0.1
    assert np.mean([outcome.mean_cost for outcome in outcomes]) < 3.0


@pytest.mark.parametrize("eps", [0.0, 1.0, -1.0])
def test_cats_rule_refuses_shares_that_are_none(eps):
    with pytest.raises(FittingError, match="eps"):
        cats_rule(population(100, seed=1), eps)


def test_cats_rule_needs_a_sample_for_each_half():
    with pytest.raises(FittingError, match="1 samples are too few"):
        cats_rule(population(1, seed=1), 0.1)
    assert cats_rule(population(2, seed=1), 0.1).thresholds == (None,) * 3


def test_cats_rule_says_that_maps_are_not_for_it():
    dataset = population(100, seed=1, labels=False)
    maps = msgspec.structs.replace(dataset, maps=MapLosses(disagreement=np.zeros((100, 4), dtype=np.float32)))
    with pytest.raises(FittingError, match="a sample agrees on a fraction of its pixels"):
        cats_rule(maps, 0.1)


def test_pcee_leaves_where_the_bin_was_right_often_enough():
    """At p = .91 the first exit is right in 9 of 10, at .71 in 6 of 10."""
    classes = [[0, 0]] * 45 + [[1, 0]] * 5 + [[0, 0]] * 60 + [[1, 0]] * 40
    dataset = handmade(classes, [[0.91, 1.0]] * 50 + [[0.71, 1.0]] * 100, [0] * 150)
    assert list(exits_under(pcee_rule(dataset, 0.85), dataset)) == [0] * 50 + [1] * 100
    assert (exits_under(pcee_rule(dataset, 0.55), dataset) == 0).all()
    assert (exits_under(pcee_rule(dataset, 0.95), dataset) == 1).all()
    with pytest.raises(FittingError, match="delta 2 must be between 0 and 1"):
        pcee_rule(dataset, 2)

"""Thresholds for a budget or a loss: within the bound, and better on new samples than a schedule."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import FittingError
from edgeexit.fitting.ranking import Ranking
from edgeexit.fitting.search import Limit, Search
from edgeexit.fitting.thresholds import within_budget, within_loss
from edgeexit.policies import exits_of, simulate
from edgeexit.policies.confidence import Confidence
from tests.fitting.populations import population
from tests.fitting.random_scores import COSTS3, drawn


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 1), st.sampled_from([None, 1, 3, 30]))
def test_a_budget_is_never_exceeded_and_the_point_has_the_right_cost_and_loss(seed, fraction, levels):
    scores, losses = drawn(seed, levels=levels)
    budget = float(COSTS3[0] + fraction * (COSTS3[-1] - COSTS3[0]))
    point = within_budget(scores, losses, COSTS3, budget)
    exits = exits_of(scores, point.thresholds)
    assert point.mean_cost <= budget
    assert point.mean_cost == pytest.approx(COSTS3[exits].mean())
    assert point.mean_loss == pytest.approx(losses[np.arange(len(exits)), exits].mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.4), st.sampled_from([None, 3]))
def test_a_loss_bound_is_never_exceeded_and_the_cost_is_at_most_full_depth(seed, drop, levels):
    scores, losses = drawn(seed, levels=levels)
    max_loss = float(losses[:, -1].mean()) + drop
    point = within_loss(scores, losses, COSTS3, max_loss)
    exits = exits_of(scores, point.thresholds)
    assert losses[np.arange(len(exits)), exits].mean() <= max_loss + 1e-9
    assert point.mean_cost <= COSTS3[-1]


def test_a_mean_cost_equal_to_the_budget_is_allowed():
    """Rounding in the sum of a cost does not take the mean above it."""
    scores, losses = drawn(3, 37)
    costs = np.array([0.1, 0.7, 1.1])
    everything = within_budget(scores, losses, costs, 0.1)
    assert everything.mean_cost == 0.1
    assert (exits_of(scores, everything.thresholds) == 0).all()
    assert within_budget(scores, losses, costs, 1.1).mean_cost <= 1.1


def test_the_lowest_budget_in_the_error_can_be_reached():
    scores, losses = drawn(1)
    scores[:30, 0] = np.nan  # a sample without a finite score continues
    with pytest.raises(FittingError, match="cannot be reached: the lowest possible is") as raised:
        within_budget(scores, losses, COSTS3, 1.0)
    lowest = float(re.search(r"possible is (\S+)", str(raised.value)).group(1))
    assert within_budget(scores, losses, COSTS3, lowest).mean_cost <= lowest


def test_the_lowest_loss_in_the_error_can_be_reached():
    scores, losses = drawn(2)
    losses[:, 1] = np.minimum(losses[:, 1], losses[:, 2])  # the middle exit is more accurate than the final one
    with pytest.raises(FittingError, match="cannot be reached: the lowest possible is") as raised:
        within_loss(scores, losses, COSTS3, 0.0)
    lowest = float(re.search(r"possible is (\S+)", str(raised.value)).group(1))
    assert lowest <= losses[:, -1].mean()
    assert within_loss(scores, losses, COSTS3, lowest).mean_loss <= lowest + 1e-9


def test_an_exit_that_is_always_wrong_is_not_used():
    scores, losses = drawn(4, 2000)
    losses[:, 0] = 1.0
    assert within_budget(scores, losses, COSTS3, 2.5).thresholds[0] is None


def test_thresholds_of_integer_scores_are_integers():
    scores, losses = drawn(5, 300, levels=4)
    scores += 1
    for budget in (1.2, 1.6, 2.0, 2.4):
        thresholds = within_budget(scores, losses, COSTS3, budget).thresholds
        assert all(t is None or t == int(t) for t in thresholds)


def test_equal_scores_all_exit_or_all_continue():
    scores, losses = drawn(6, 200)
    scores[:150, 0] = 1.0
    for budget in np.linspace(1.05, 2.95, 20):
        exits = exits_of(scores, within_budget(scores, losses, COSTS3, float(budget)).thresholds)
        assert (exits[:150] == 0).all() or (exits[:150] != 0).all()


def test_new_samples_have_less_loss_than_under_the_published_schedule_if_costs_are_uneven():
    """Thresholds are fitted on 1000 samples and evaluated on others, over several draws."""
    costs = np.array([0.1, 0.15, 0.9, 1.0])
    gains = []
    for seed in range(4):
        fresh, held = population(20_000, seed=100 + seed), population(1000, seed=seed)
        candidate = Confidence(temperatures=held.temperatures, thresholds=(None,) * 3)
        (scores, predictions), new = simulate(candidate, held.readouts), simulate(candidate, fresh.readouts)
        losses, truth = held.losses(predictions), fresh.losses(new.predictions)
        ranking = Ranking(scores)
        search = Search(ranking, losses, [Limit(np.broadcast_to(costs, scores.shape), 0.3)])
        published = ranking.thresholds(search.schedules(cheap=True)[0])
        chosen = within_budget(scores, losses, costs, 0.3).thresholds
        before, after = (truth[np.arange(len(truth)), exits_of(new.scores, t)].mean() for t in (published, chosen))
        gains.append(before - after)
    assert min(gains) > 0


def test_all_samples_exit_at_an_exit_that_is_better_than_the_deeper_ones():
    """A budget need not be spent on deeper exits that are worse; a drop is reached at the lowest cost."""
    random = np.random.default_rng(2)
    losses = (random.random((540, 4)) < (0.15, 0.19, 0.22, 0.25)).astype(np.float64)
    scores = random.random((540, 4)).astype(np.float32)
    costs = np.array([1.0, 2.7, 5.0, 7.0])
    assert losses.mean(axis=0).argmin() == 0
    for point in (within_budget(scores, losses, costs, 2.5), within_loss(scores, losses, costs, losses[:, -1].mean())):
        assert point.mean_loss <= losses[:, 0].mean() + 1e-12
        assert point.mean_cost == 1.0

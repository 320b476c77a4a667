"""The threshold search: as good as brute force, within its goal to the last bit, and honest on new samples."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import FittingError
from edgeexit.fitting.cuts import Ranking, shortest_between
from edgeexit.fitting.search import Limit, Search
from edgeexit.fitting.thresholds import within_budget, within_loss
from edgeexit.policies import exits_of, simulate
from edgeexit.policies.confidence import Confidence
from tests.fitting.populations import population

COSTS3 = np.array([1.0, 1.7, 3.0])


def drawn(seed: int, samples: int = 80, *, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores and losses [N, 3]; `levels`: scores with many ties, down to negative ones."""
    random = np.random.default_rng(seed)
    scores = random.random((samples, 3)).astype(np.float32)
    losses = (random.random((samples, 3)) > 0.4 + 0.5 * scores).astype(np.float64)
    return (scores if levels is None else np.floor(scores * levels) - 1), losses


def by_brute_force(scores, losses, costs, budget):
    """Return the least mean loss of all pairs of thresholds."""
    options = [[None, *np.unique(scores[:, k]).tolist()] for k in range(2)]
    best = np.inf
    for pair in product(*options):
        exits = exits_of(scores, pair)
        if costs[exits].mean() <= budget + 1e-12:
            best = min(best, losses[np.arange(len(exits)), exits].mean())
    return best


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(1.05, 2.9), st.sampled_from([None, 2, 5]))
def test_the_search_is_as_good_as_brute_force(seed, budget, levels):
    scores, losses = drawn(seed, 40, levels=levels)
    ranking = Ranking(scores)
    search = Search(ranking, losses, [Limit(np.broadcast_to(COSTS3, scores.shape), budget)])
    found = search.best([*search.schedules(cheap=True), ranking.loosest])
    assert search.value(found) / 40 <= by_brute_force(scores, losses, COSTS3, budget) + 1 / 40 + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 1), st.sampled_from([None, 1, 3, 30]))
def test_a_budget_is_never_exceeded_and_the_point_says_what_its_thresholds_do(seed, fraction, levels):
    scores, losses = drawn(seed, levels=levels)
    budget = float(COSTS3[0] + fraction * (COSTS3[-1] - COSTS3[0]))
    point = within_budget(scores, losses, COSTS3, budget)
    exits = exits_of(scores, point.thresholds)
    assert point.mean_cost <= budget
    assert point.mean_cost == pytest.approx(COSTS3[exits].mean())
    assert point.mean_loss == pytest.approx(losses[np.arange(len(exits)), exits].mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.4), st.sampled_from([None, 3]))
def test_a_loss_is_never_exceeded_and_more_of_it_is_never_dearer_than_full_depth(seed, drop, levels):
    scores, losses = drawn(seed, levels=levels)
    most = float(losses[:, -1].mean()) + drop
    point = within_loss(scores, losses, COSTS3, most)
    exits = exits_of(scores, point.thresholds)
    assert losses[np.arange(len(exits)), exits].mean() <= most + 1e-9
    assert point.mean_cost <= COSTS3[-1]


def test_equality_with_the_budget_is_allowed_at_both_ends():
    """Sums of a rounded figure do not push a mean above it."""
    scores, losses = drawn(3, 37)
    costs = np.array([0.1, 0.7, 1.1])
    everything = within_budget(scores, losses, costs, 0.1)
    assert everything.mean_cost == 0.1
    assert (exits_of(scores, everything.thresholds) == 0).all()
    assert within_budget(scores, losses, costs, 1.1).mean_cost <= 1.1


def test_a_budget_out_of_reach_says_the_least_and_that_works():
    scores, losses = drawn(1)
    scores[:30, 0] = np.nan  # a sample without a score goes on
    with pytest.raises(FittingError, match="cannot be reached: the lowest possible is") as raised:
        within_budget(scores, losses, COSTS3, 1.0)
    lowest = float(re.search(r"possible is (\S+)", str(raised.value)).group(1))
    assert within_budget(scores, losses, COSTS3, lowest).mean_cost <= lowest


def test_a_loss_out_of_reach_says_the_least_and_that_works():
    scores, losses = drawn(2)
    losses[:, 1] = np.minimum(losses[:, 1], losses[:, 2])  # the middle exit knows better than the final one
    with pytest.raises(FittingError, match="cannot be reached: the lowest possible is") as raised:
        within_loss(scores, losses, COSTS3, 0.0)
    lowest = float(re.search(r"possible is (\S+)", str(raised.value)).group(1))
    assert lowest <= losses[:, -1].mean()
    assert within_loss(scores, losses, COSTS3, lowest).mean_loss <= lowest + 1e-9


def test_an_exit_that_knows_nothing_is_skipped():
    scores, losses = drawn(4, 2000)
    losses[:, 0] = 1.0
    assert within_budget(scores, losses, COSTS3, 2.5).thresholds[0] is None


def test_ties_leave_together_and_thresholds_of_counts_are_whole_numbers():
    scores, losses = drawn(5, 300, levels=4)
    scores += 1
    for budget in (1.2, 1.6, 2.0, 2.4):
        thresholds = within_budget(scores, losses, COSTS3, budget).thresholds
        assert all(t is None or t == int(t) for t in thresholds)


def test_saturated_scores_all_leave_or_all_stay():
    scores, losses = drawn(6, 200)
    scores[:150, 0] = 1.0
    for budget in np.linspace(1.05, 2.95, 20):
        exits = exits_of(scores, within_budget(scores, losses, COSTS3, float(budget)).thresholds)
        assert (exits[:150] == 0).all() or (exits[:150] != 0).all()


@given(st.floats(-8, 8, width=32), st.floats(-8, 8, width=32))
def test_thresholds_lie_between_scores_also_as_float32(first, second):
    low, high = sorted((first, second))
    if low < high:
        assert low < np.float32(shortest_between(low, high)) <= high


def test_thresholds_are_plain():
    assert shortest_between(2.0, 3.0) == 3
    assert shortest_between(0.8123, 0.8971) == 0.85
    assert shortest_between(0.61, 0.97) == 0.8
    assert shortest_between(float(np.nextafter(np.float32(1), np.float32(0))), 1.0) == 1.0


def test_where_all_leave_the_threshold_holds_for_new_samples_too():
    ranking = Ranking(np.array([[0.4, -2.0, 1.0], [0.9, 3.0, 1.0]], dtype=np.float32))
    assert ranking.thresholds(ranking.loosest) == (0.0, -2.0)
    assert ranking.thresholds((0, 0)) == (None, None)


def test_new_samples_fare_better_than_under_the_published_schedule_where_costs_are_uneven():
    """Fitted on 1000 samples, scored on others, over several draws."""
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


def test_an_exit_that_is_better_than_those_behind_it_answers_everything():
    """Deeper exits that are worse have no claim to a budget, and a drop is best kept where it is cheapest."""
    random = np.random.default_rng(2)
    losses = (random.random((540, 4)) < (0.15, 0.19, 0.22, 0.25)).astype(np.float64)
    scores = random.random((540, 4)).astype(np.float32)
    costs = np.array([1.0, 2.7, 5.0, 7.0])
    assert losses.mean(axis=0).argmin() == 0
    for point in (within_budget(scores, losses, costs, 2.5), within_loss(scores, losses, costs, losses[:, -1].mean())):
        assert point.mean_loss <= losses[:, 0].mean() + 1e-12
        assert point.mean_cost == 1.0

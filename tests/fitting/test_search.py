"""The search for positions, compared with brute force."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.fitting.ranking import Ranking
from edgeexit.fitting.search import Limit, Search
from edgeexit.policies import exits_of
from tests.fitting.random_scores import COSTS3, drawn


def by_brute_force(scores, losses, costs, budget):
    """Return the least mean loss over all pairs of thresholds."""
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

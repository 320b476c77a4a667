"""Entropy: the number of classes, and BranchyNet's combinations of entropies."""

from itertools import product

import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import expect
from edgeexit.fitting.kinds import make_candidates
from edgeexit.fitting.kinds.entropy import ENTROPIES, branchynet_policy
from edgeexit.fitting.options import CandidateOptions
from edgeexit.policies import exits_of, simulate
from tests.fitting.populations import of_predictions, of_readouts, population, readout


def approx(thresholds):
    return pytest.approx(thresholds, abs=1e-6)


def test_readouts_without_probabilities_are_refused():
    dataset = of_readouts([[readout(0.9, 0.1), readout(0.9, 0.1)]] * 4)
    with pytest.raises(FittingError, match="needs the number of classes"):
        make_candidates("entropy", dataset, CandidateOptions(budget=2.0))


def test_branchynet_takes_the_best_entropy_of_its_list():
    """Samples of up to .04 nats exit with the right class at a mean cost of 1.5: .05 is the first entropy for it."""
    dataset = of_predictions([[0, 0], [0, 0], [1, 0], [1, 0]], [[0.5, 0.5]] * 4, [0] * 4)
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


def test_branchynet_uses_one_entropy_for_many_exits():
    dataset = population(300, seed=2, exits=8)
    policy = branchynet_policy(dataset, 3.0)
    assert len(set(policy.thresholds)) == 1
    assert expect(policy, dataset).mean_cost <= 3.0

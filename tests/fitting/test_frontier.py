"""The path of thresholds from the safest to the cheapest."""

import numpy as np
import pytest

from edgeexit.fitting.frontier import frontier
from edgeexit.policies import exits_of, simulate
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.patience import Patience
from tests.fitting.populations import COSTS, population


@pytest.mark.parametrize("kind", [Confidence, Patience])
def test_the_path_is_nested_from_full_depth_to_the_first_exit_with_the_right_costs_and_losses(kind):
    dataset = population(700, seed=1)
    scores, predictions = simulate(kind(temperatures=(1.0,) * 4, thresholds=(None,) * 3), dataset.readouts)
    losses = dataset.losses(predictions)
    path = frontier(scores, losses, np.array(COSTS))
    assert path[0].thresholds == (None, None, None)
    assert path[-1].mean_cost == COSTS[0]
    before = np.full(len(scores), 3)
    for point in path[1:]:
        exits = exits_of(scores, point.thresholds)
        assert (exits <= before).all()
        assert (exits < before).any()
        assert point.mean_cost == pytest.approx(np.array(COSTS)[exits].mean())
        assert point.mean_loss == pytest.approx(losses[np.arange(len(exits)), exits].mean())
        before = exits


def test_an_exit_that_is_always_wrong_is_used_last():
    dataset = population(1000, seed=2)
    scores, predictions = simulate(Confidence(temperatures=(1.0,) * 4, thresholds=(None,) * 3), dataset.readouts)
    losses = dataset.losses(predictions)
    losses[:, 1] = 1.0
    path = frontier(scores, losses, np.array(COSTS))
    assert all(point.thresholds[1] is None for point in path if point.mean_cost > 1.2 * COSTS[0])


def test_steps_are_small_at_low_losses():
    """With small steps, a certificate ends close to its bound."""
    dataset = population(4000, seed=3)
    scores, predictions = simulate(Confidence(temperatures=(1.0,) * 4, thresholds=(None,) * 3), dataset.readouts)
    path = frontier(scores, dataset.disagreement(predictions), np.array(COSTS))
    risks = np.array([point.mean_loss for point in path])
    assert np.diff(risks[risks < 0.1]).max() < 0.01

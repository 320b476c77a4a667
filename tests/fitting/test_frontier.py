"""The path of thresholds from the safest to the cheapest."""

import numpy as np
import pytest

from edgeexit.fitting.frontier import frontier
from edgeexit.policies import exits_of, simulate
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.patience import Patience
from tests.fitting.populations import COSTS, population

UNFITTED = Confidence(temperatures=(1.0,) * 4, thresholds=(None,) * 3)


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
    scores, predictions = simulate(UNFITTED, dataset.readouts)
    losses = dataset.losses(predictions)
    losses[:, 1] = 1.0
    path = frontier(scores, losses, np.array(COSTS))
    assert all(point.thresholds[1] is None for point in path if point.mean_cost > 1.2 * COSTS[0])


def test_steps_are_small_at_low_losses():
    """With small steps, a certificate ends close to its bound."""
    dataset = population(4000, seed=3)
    scores, predictions = simulate(UNFITTED, dataset.readouts)
    path = frontier(scores, dataset.disagreement(predictions), np.array(COSTS))
    risks = np.array([point.mean_loss for point in path])
    assert np.diff(risks[risks < 0.1]).max() < 0.01


@pytest.mark.parametrize("samples", [60, 90])
def test_steps_near_full_depth_move_one_sample(samples):
    dataset = population(samples, seed=4, labels=False, sharpness=0.3)  # no scores near 1, which have no gaps
    scores, predictions = simulate(UNFITTED, dataset.readouts)
    path = frontier(scores, dataset.disagreement(predictions), np.array(COSTS))
    exits = np.array([exits_of(scores, point.thresholds) for point in path])
    moved = (np.diff(exits, axis=0) != 0).sum(axis=1)
    assert (moved[: samples // 2] == 1).all()


@pytest.mark.parametrize("max_points", [2, 20, 256])
def test_a_long_path_is_thinned_out_and_keeps_its_first_sample_and_its_end(max_points):
    dataset = population(5000, seed=5, labels=False, sharpness=0.3)
    scores, predictions = simulate(UNFITTED, dataset.readouts)
    path = frontier(scores, dataset.disagreement(predictions), np.array(COSTS), max_points=max_points)
    assert 0.5 * max_points <= len(path) <= max_points
    assert path[0].thresholds == (None, None, None)
    assert path[-1].mean_cost == pytest.approx(COSTS[0])
    if max_points == 256:
        assert (exits_of(scores, path[1].thresholds) < 3).sum() == 1


def test_an_exit_without_a_loss_among_few_samples_does_not_come_first_if_it_saves_little():
    """Exit 2 has no loss by chance; confident samples can exit at exit 0, which saves three times as much."""
    samples = 60
    confidence = np.linspace(0.99, 0.5, samples, dtype=np.float32)
    scores = np.stack([confidence] * 4, axis=1)
    losses = np.zeros((samples, 4))
    losses[55:, :2] = 1.0
    first = frontier(scores, losses, np.array(COSTS))[1]
    assert first.thresholds[0] is not None

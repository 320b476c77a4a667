"""ZTW: the weights and biases of its ensembles."""

import numpy as np
import pytest

from edgeexit.fitting import Budget, ReadoutDataset, fit_policy
from edgeexit.fitting.kinds import ztw
from edgeexit.fitting.replay import replay
from tests.fitting.only_candidate import only_candidate
from tests.fitting.populations import population
from tests.fitting.reference_readouts import read_out


def test_the_weights_compensate_for_temperatures():
    """Readouts under other temperatures give the same ensembles with other weights."""
    dataset = population(2000, seed=1)
    hot = dataset.at((1.5, 0.8, 1.2, 1.0))
    first, second = (replay(only_candidate("ztw", e), e) for e in (dataset, hot))
    assert np.abs(first.scores[:, :-1] - second.scores[:, :-1]).mean() < 0.005
    assert (first.predictions != second.predictions).mean() < 0.005


def test_the_ensembles_are_at_least_as_accurate_as_single_exits():
    dataset = population(4000, seed=1)
    fresh = population(20_000, seed=2)
    ensemble = replay(only_candidate("ztw", dataset), fresh)
    single = replay(only_candidate("confidence", dataset), fresh)
    assert (
        fresh.losses(ensemble.predictions).mean(axis=0) <= fresh.losses(single.predictions).mean(axis=0) + 0.002
    ).all()
    assert fresh.losses(ensemble.predictions)[:, 2].mean() < fresh.losses(single.predictions)[:, 2].mean() - 0.01


def test_the_fit_recovers_the_weights_and_biases_that_drew_the_labels():
    """Labels are drawn from softmax of (1.5 log p_0 + 0.5 log p_1) / 2 + b."""
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(40_000, 3, 3))
    logs = np.log(read_out(logits)[..., 4:])
    biases = np.array([0.5, 0.0, -0.5])
    p = read_out((1.5 * logs[:, 0] + 0.5 * logs[:, 1]) / 2 + biases)[:, 4:]
    labels = (random.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    dataset = ReadoutDataset.from_logits(logits, costs=(1.0, 2.0, 3.0), labels=labels)
    policy = only_candidate("ztw", dataset)
    assert policy.weights[1] == pytest.approx((1.5, 0.5), abs=0.06)
    assert np.array(policy.biases[1]) - np.mean(policy.biases[1]) == pytest.approx(biases, abs=0.04)


def test_the_size_of_the_blocks_does_not_change_the_ensembles(monkeypatch):
    dataset = population(700, seed=3, classes=5)
    whole = only_candidate("ztw", dataset)
    monkeypatch.setattr(ztw, "_BLOCK", 64)
    parts = only_candidate("ztw", dataset)
    for one, other in zip((*whole.weights, *whole.biases), (*parts.weights, *parts.biases), strict=True):
        assert one == pytest.approx(other, abs=2e-3)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_ensembles_do_not_depend_on_the_scale_of_the_logits(scale):
    dataset = population(700, seed=3)
    assert dataset.logits is not None
    scaled = ReadoutDataset.from_logits(dataset.logits.array * scale, costs=dataset.costs, labels=dataset.labels)
    first, second = (fit_policy("ztw", each, Budget(cost=2.0)) for each in (dataset, scaled))
    assert second.expected.exit_rates == pytest.approx(first.expected.exit_rates, abs=0.01)
    assert second.expected.mean_loss == pytest.approx(first.expected.mean_loss, abs=0.01)

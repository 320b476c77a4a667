"""EENet: the policy of trained functions and the samples that they are trained on."""

import numpy as np
import pytest

from edgeexit.fitting.kinds.eenet import examples as examples_module
from edgeexit.fitting.kinds.eenet.examples import examples_of
from edgeexit.fitting.kinds.eenet.training import assignment_samples, train, with_weights
from edgeexit.fitting.replay import replay
from tests.fitting.kinds.eenet.overconfident import overconfident_in_one_class
from tests.fitting.populations import population


def test_the_policy_computes_the_trained_scores():
    dataset = population(200, seed=3)
    trained = train(examples_of(dataset), dataset.costs, 2.0, seed=0)
    scores = replay(with_weights(dataset, trained.weights), dataset).scores
    np.testing.assert_allclose(scores, trained.scores, atol=1e-4)


def test_the_size_of_the_blocks_does_not_change_the_policy(monkeypatch):
    dataset = overconfident_in_one_class(500)
    whole = train(examples_of(dataset), dataset.costs, 1.8, seed=0)
    assert np.abs(whole.scores - examples_of(dataset).initial_scores).max() > 0.05
    monkeypatch.setattr(examples_module, "_BLOCK", 100)
    assert len(list(examples_of(dataset).inputs(0, whole.scores).blocks())) > 10
    parts = train(examples_of(dataset), dataset.costs, 1.8, seed=0)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)
    np.testing.assert_allclose(parts.fractions(examples_of(dataset)), whole.fractions(examples_of(dataset)), atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "exits", "classes", "expected"),
    [(50_000, 5, 100, 2000), (300, 5, 100, 300), (5000, 2, 20_000, 209), (5000, 5, 20_000, 200), (50, 5, 20_000, 50)],
)
def test_the_assignment_function_is_trained_on_fewer_samples_of_many_classes(samples, exits, classes, expected):
    chosen = assignment_samples(samples, exits, classes, seed=0)
    assert len(set(chosen.tolist())) == expected
    assert chosen.max() < samples

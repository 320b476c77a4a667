"""EENet: the policy of trained functions."""

import numpy as np

from edgeexit.fitting.kinds.eenet.scoring import examples_of, scores_of
from edgeexit.fitting.kinds.eenet.training import train, with_weights
from edgeexit.policies import simulate
from tests.fitting.populations import population


def test_the_policy_computes_the_trained_scores():
    dataset = population(200, seed=3)
    examples = examples_of(dataset)
    trained = train(examples, dataset.costs, 2.0, seed=0)
    scores = simulate(with_weights(dataset, trained.weights), dataset.readouts).scores
    np.testing.assert_allclose(scores, scores_of(examples.inputs, trained.weights), atol=1e-4)

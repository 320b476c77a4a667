"""PCEE: accuracies per bin, and the paper's threshold."""

import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.pcee import pcee_rule
from edgeexit.policies import exits_of, simulate
from tests.fitting.only_candidate import only_candidate
from tests.fitting.populations import of_predictions, of_readouts, readout


def exits_under(policy, dataset):
    return exits_of(simulate(policy, dataset.readouts).scores, policy.thresholds)


def test_the_score_is_the_accuracy_of_the_bin():
    """Of 100 samples at p = 0.71, 60 are right, of 50 at 0.91 all but 5."""
    sure, unsure = [readout(0.91, 0.05), readout(1.0, 0.0)], [readout(0.71, 0.2), readout(1.0, 0.0)]
    dataset = of_readouts([unsure] * 100 + [sure] * 50, labels=[0] * 60 + [1] * 40 + [0] * 45 + [1] * 5)
    scores = simulate(only_candidate("pcee", dataset), dataset.readouts).scores[:, 0]
    assert scores[0] == pytest.approx(0.6)
    assert scores[-1] == pytest.approx(0.9)


def test_a_bin_with_one_sample_uses_the_samples_of_its_neighbours():
    """One right sample at 0.99, and 40 at 0.95 of which 30 are right: 31 of 41."""
    rows = [[readout(0.95, 0.0), readout(1.0, 0.0)]] * 40 + [[readout(0.99, 0.0), readout(1.0, 0.0)]]
    policy = only_candidate("pcee", of_readouts(rows, labels=[0] * 30 + [1] * 10 + [0]))
    assert policy.accuracies[0][-1] == pytest.approx(31 / 41, abs=1e-4)


def test_a_sample_exits_if_its_bin_was_right_often_enough():
    """At p = .91 the first exit is right in 9 of 10, at .71 in 6 of 10."""
    classes = [[0, 0]] * 45 + [[1, 0]] * 5 + [[0, 0]] * 60 + [[1, 0]] * 40
    dataset = of_predictions(classes, [[0.91, 1.0]] * 50 + [[0.71, 1.0]] * 100, [0] * 150)
    assert list(exits_under(pcee_rule(dataset, 0.85), dataset)) == [0] * 50 + [1] * 100
    assert (exits_under(pcee_rule(dataset, 0.55), dataset) == 0).all()
    assert (exits_under(pcee_rule(dataset, 0.95), dataset) == 1).all()
    with pytest.raises(FittingError, match="delta 2 must be between 0 and 1"):
        pcee_rule(dataset, 2)

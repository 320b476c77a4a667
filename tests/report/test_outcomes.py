"""The outcomes of a report and the exits per class, compared with numbers computed by hand."""

import numpy as np
import pytest

from edgeexit.fitting import MapLosses, ReadoutDataset
from edgeexit.fitting.outcome import follow
from edgeexit.policies.confidence import Confidence
from edgeexit.report.class_depth import class_depths, shallowest_and_deepest
from edgeexit.report.outcomes import oracle_outcome, single_exit_outcomes
from tests.fitting.populations import population
from tests.report.five_samples import five_samples


def test_a_single_exit_has_the_accuracy_and_the_cost_of_that_exit():
    singles = single_exit_outcomes(five_samples())
    assert [outcome.mean_cost for outcome in singles] == [1.0, 2.0, 4.0]
    assert [outcome.mean_loss for outcome in singles] == pytest.approx([0.6, 0.4, 0.4])


def test_the_oracle_exits_at_the_first_correct_exit():
    found = oracle_outcome(five_samples())
    assert found.exits.tolist() == [0, 1, 0, 2, 2]  # the last sample has no correct exit and exits at the final one
    assert found.mean_cost == pytest.approx((1 + 2 + 1 + 4 + 4) / 5)
    assert found.mean_loss == pytest.approx(1 / 5)
    assert found.rates == pytest.approx((0.4, 0.2, 0.4))


def test_without_labels_the_oracle_exits_where_the_prediction_equals_the_final_one():
    found = oracle_outcome(five_samples(labels=False))
    assert found.exits.tolist() == [0, 1, 2, 2, 0]
    assert found.mean_loss == 0


def test_for_segmentation_the_oracle_exits_at_the_exit_with_the_smallest_loss():
    errors = np.array([[0.3, 0.2, 0.2], [0.1, 0.2, 0.3]], dtype=np.float32)
    dataset = ReadoutDataset(
        readouts=np.zeros((2, 3, 4), dtype=np.float32),
        costs=(1.0, 2.0, 4.0),
        temperatures=(1.0,) * 3,
        maps=MapLosses(disagreement=errors, errors=errors),
    )
    found = oracle_outcome(dataset)
    assert found.exits.tolist() == [1, 0]
    assert found.mean_loss == pytest.approx(0.15)


def test_a_policy_is_applied_to_every_sample():
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.8, 0.8))
    found = follow(policy, five_samples())
    assert found.exits.tolist() == [0, 1, 0, 2, 2]
    assert found.losses.tolist() == [0, 0, 0, 0, 1]
    assert found.mean_cost == pytest.approx(2.4)


def test_classes_are_sorted_from_shallow_to_deep():
    depths = class_depths(five_samples(), oracle_outcome(five_samples()))
    assert [depth.index for depth in depths] == [2, 0, 1]
    assert [depth.mean_depth for depth in depths] == pytest.approx([1.0, 2.0, 2.5])
    assert [depth.accuracy for depth in depths] == pytest.approx([1.0, 1.0, 0.5])
    assert depths[1].rates == pytest.approx((0.5, 0.0, 0.5))
    assert [depth.samples for depth in depths] == [1, 2, 2]


def test_without_labels_the_class_is_the_final_exits_prediction():
    dataset = five_samples(labels=False)
    depths = {depth.index: depth.samples for depth in class_depths(dataset, oracle_outcome(dataset))}
    assert depths == {0: 3, 1: 2}


def test_of_many_classes_the_shallowest_and_the_deepest_are_shown():
    dataset = population(3000, seed=4, classes=60)
    depths = class_depths(dataset, oracle_outcome(dataset))
    assert len(depths) == 60
    shallow, deep = shallowest_and_deepest(depths)
    assert (len(shallow), len(deep)) == (15, 15)
    assert max(d.mean_depth for d in shallow) <= min(d.mean_depth for d in deep)
    assert shallowest_and_deepest(depths[:30]) == (depths[:30], ())

"""What a policy is held against: numbers worked out by hand."""

import numpy as np
import pytest

from edgeexit.fitting import MapLosses, ReadoutDataset
from edgeexit.fitting.outcome import follow
from edgeexit.policies.confidence import Confidence
from edgeexit.report.depth import class_depths, ends
from edgeexit.report.marks import oracle, single_exits
from tests.fitting.populations import population
from tests.report.worked import worked


def test_single_exits_are_their_own_accuracy_and_cost():
    singles = single_exits(worked())
    assert [outcome.mean_cost for outcome in singles] == [1.0, 2.0, 4.0]
    assert [outcome.mean_loss for outcome in singles] == pytest.approx([0.6, 0.4, 0.4])


def test_the_oracle_leaves_at_the_first_right_exit():
    found = oracle(worked())
    assert found.exits.tolist() == [0, 1, 0, 2, 2]  # the last is never right, and goes to the end
    assert found.mean_cost == pytest.approx((1 + 2 + 1 + 4 + 4) / 5)
    assert found.mean_loss == pytest.approx(1 / 5)
    assert found.rates == pytest.approx((0.4, 0.2, 0.4))


def test_without_labels_the_oracle_waits_for_the_final_answer():
    found = oracle(worked(labels=False))
    assert found.exits.tolist() == [0, 1, 2, 2, 0]
    assert found.mean_loss == 0


def test_to_segment_the_oracle_takes_the_exit_that_loses_least():
    errors = np.array([[0.3, 0.2, 0.2], [0.1, 0.2, 0.3]], dtype=np.float32)
    dataset = ReadoutDataset(
        readouts=np.zeros((2, 3, 4), dtype=np.float32),
        costs=(1.0, 2.0, 4.0),
        temperatures=(1.0,) * 3,
        maps=MapLosses(disagreement=errors, errors=errors),
    )
    found = oracle(dataset)
    assert found.exits.tolist() == [1, 0]
    assert found.mean_loss == pytest.approx(0.15)


def test_a_policy_is_followed_on_every_sample():
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.8, 0.8))
    found = follow(policy, worked())
    assert found.exits.tolist() == [0, 1, 0, 2, 2]
    assert found.losses.tolist() == [0, 0, 0, 0, 1]
    assert found.mean_cost == pytest.approx(2.4)


def test_classes_stand_from_shallow_to_deep():
    depths = class_depths(worked(), oracle(worked()))
    assert [depth.index for depth in depths] == [2, 0, 1]
    assert [depth.mean_depth for depth in depths] == pytest.approx([1.0, 2.0, 2.5])
    assert [depth.accuracy for depth in depths] == pytest.approx([1.0, 1.0, 0.5])
    assert depths[1].rates == pytest.approx((0.5, 0.0, 0.5))
    assert [depth.samples for depth in depths] == [1, 2, 2]


def test_without_labels_a_class_is_the_final_exits_answer():
    dataset = worked(labels=False)
    depths = {depth.index: depth.samples for depth in class_depths(dataset, oracle(dataset))}
    assert depths == {0: 3, 1: 2}


def test_of_many_classes_the_two_ends_are_shown():
    dataset = population(3000, seed=4, classes=60)
    depths = class_depths(dataset, oracle(dataset))
    assert len(depths) == 60
    shallow, deep = ends(depths)
    assert (len(shallow), len(deep)) == (15, 15)
    assert max(d.mean_depth for d in shallow) <= min(d.mean_depth for d in deep)
    assert ends(depths[:30]) == (depths[:30], ())

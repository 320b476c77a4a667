"""The exits per class, compared with numbers computed by hand."""

import pytest

from edgeexit.report.class_depth import class_depths, shallowest_and_deepest
from edgeexit.report.outcomes import oracle_outcome
from tests.fitting.populations import population
from tests.report.five_samples import five_samples


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

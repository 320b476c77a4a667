"""Confidence: MSDNet's geometric exit fractions."""

import pytest

from edgeexit.fitting.kinds.confidence import msdnet_policy
from edgeexit.policies import exits_of, simulate
from tests.fitting.populations import of_predictions, population


def approx(thresholds):
    return pytest.approx(thresholds, abs=1e-6)


def exits_under(policy, dataset):
    return exits_of(simulate(policy, dataset.readouts).scores, policy.thresholds)


def test_msdnet_has_geometric_exit_fractions():
    """At 17/7, r = 2: of 7 samples, 1, 2 and 4 exit at the three exits. At 11/7, r = 1/2: 4, 2 and 1."""
    p1 = [[0.9, 0.3, 0.5], [0.8, 0.9, 0.5], [0.7, 0.4, 0.5], [0.6, 0.8, 0.5], [0.5, 0.7, 0.5], [0.4, 0.6, 0.5]]
    dataset = of_predictions([[0] * 3] * 7, [*p1, [0.3, 0.5, 0.5]], [0] * 7)
    assert msdnet_policy(dataset, 17 / 7).thresholds == approx((0.9, 0.8))
    assert msdnet_policy(dataset, 11 / 7).thresholds == approx((0.6, 0.6))
    assert list(exits_under(msdnet_policy(dataset, 11 / 7), dataset)) == [0, 0, 0, 0, 1, 1, 2]


def test_msdnet_covers_all_budgets():
    dataset = population(200, seed=1)
    assert (exits_under(msdnet_policy(dataset, 1.0), dataset) == 0).all()
    assert msdnet_policy(dataset, 4.0).thresholds == (None, None, None)
    assert msdnet_policy(dataset, 9.0).thresholds == (None, None, None)

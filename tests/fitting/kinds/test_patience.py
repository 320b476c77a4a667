"""Patience: PABEE's one patience for all exits."""

import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.patience import pabee_policy
from edgeexit.policies import exits_of, simulate
from tests.fitting.populations import of_predictions


def exits_under(policy, dataset):
    return exits_of(simulate(policy, dataset.readouts).scores, policy.thresholds)


def test_pabee_takes_the_largest_patience_within_the_budget():
    """Patience 1 costs (2 + 3 + 4) / 3, 2 costs (3 + 4 + 4) / 3, 3 is the full model."""
    dataset = of_predictions([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1]], [[0.5] * 4] * 3, [0] * 3)
    assert pabee_policy(dataset, 3.2).thresholds == (None, 1.0, 1.0)
    assert list(exits_under(pabee_policy(dataset, 3.2), dataset)) == [1, 2, 3]
    assert pabee_policy(dataset, 3.7).thresholds == (None, None, 2.0)
    assert pabee_policy(dataset, 4.0).thresholds == (None, None, None)
    with pytest.raises(FittingError, match=r"2\.9 cannot be reached: a patience of 1 costs 3"):
        pabee_policy(dataset, 2.9)

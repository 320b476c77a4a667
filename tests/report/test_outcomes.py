"""The outcomes of a report, compared with numbers computed by hand."""

import numpy as np
import pytest

from edgeexit.fitting import MapLosses, ReadoutDataset
from edgeexit.fitting.outcome import follow
from edgeexit.policies.confidence import Confidence
from edgeexit.report.outcomes import oracle_outcome, single_exit_outcomes
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

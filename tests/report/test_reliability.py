"""The calibration error, on a case worked out by hand."""

import numpy as np
import pytest

from edgeexit.fitting import ReadoutDataset
from edgeexit.report.reliability import reliability


def test_ece_of_a_worked_case():
    # Four samples 95 % sure of which three are right, four 55 % sure of which two are.
    readouts = np.zeros((8, 2, 4), dtype=np.float32)
    readouts[:4, :, 1], readouts[4:, :, 1] = 0.95, 0.55
    labels = np.array([0, 0, 0, 1, 0, 0, 1, 1])
    dataset = ReadoutDataset(readouts=readouts, costs=(1.0, 2.0), temperatures=(1.0, 1.0), labels=labels)
    found = reliability(dataset, 0)
    assert found.counts.tolist() == [4, 4]
    assert found.confidence == pytest.approx([0.55, 0.95])
    assert found.accuracy == pytest.approx([0.5, 0.75])
    assert found.ece == pytest.approx((0.05 + 0.2) / 2)


def test_full_and_no_confidence_have_a_bin():
    readouts = np.zeros((2, 2, 4), dtype=np.float32)
    readouts[1, :, 1] = 1.0
    dataset = ReadoutDataset(readouts=readouts, costs=(1.0, 2.0), temperatures=(1.0, 1.0), labels=np.array([1, 0]))
    found = reliability(dataset, 0)
    assert found.counts.tolist() == [1, 1]
    assert found.ece == pytest.approx(0.0)

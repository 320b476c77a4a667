"""Reliability diagrams and the expected calibration error, compared with numbers computed by hand."""

import numpy as np
import pytest

from edgeexit.fitting import ReadoutDataset
from edgeexit.report.reliability import reliability


def test_the_ece_equals_a_result_computed_by_hand():
    # Four samples with confidence 95 %, three of them correct; four with confidence 55 %, two of them correct.
    readouts = np.zeros((8, 2, 4), dtype=np.float32)
    readouts[:4, :, 1], readouts[4:, :, 1] = 0.95, 0.55
    labels = np.array([0, 0, 0, 1, 0, 0, 1, 1])
    dataset = ReadoutDataset(readouts=readouts, costs=(1.0, 2.0), temperatures=(1.0, 1.0), labels=labels)
    diagram = reliability(dataset, 0)
    assert diagram.counts.tolist() == [4, 4]
    assert diagram.confidence == pytest.approx([0.55, 0.95])
    assert diagram.accuracy == pytest.approx([0.5, 0.75])
    assert diagram.ece == pytest.approx((0.05 + 0.2) / 2)


def test_confidences_of_0_and_1_fall_into_a_bin():
    readouts = np.zeros((2, 2, 4), dtype=np.float32)
    readouts[1, :, 1] = 1.0
    dataset = ReadoutDataset(readouts=readouts, costs=(1.0, 2.0), temperatures=(1.0, 1.0), labels=np.array([1, 0]))
    diagram = reliability(dataset, 0)
    assert diagram.counts.tolist() == [1, 1]
    assert diagram.ece == pytest.approx(0.0)

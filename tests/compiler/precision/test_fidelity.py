"""The comparison of each exit with fp32, and the warnings about losses."""

import numpy as np

from edgeexit.compiler.precision.fidelity import loss_warnings, measure_fidelity
from edgeexit.datasets import IGNORED


def logits(*classes):
    return np.eye(3, dtype=np.float32)[list(classes)]


def test_fidelity_is_agreement_and_accuracy():
    labels = np.array([0, 1, 2, 2])
    fidelity = measure_fidelity({"e0": logits(0, 1, 2, 0)}, {"e0": logits(0, 1, 1, 2)}, labels=labels)
    (exit_,) = fidelity.exits.values()
    assert (fidelity.samples, exit_.agreement, exit_.accuracy, exit_.accuracy_fp32) == (4, 0.5, 0.75, 0.75)
    assert loss_warnings(fidelity) == []
    unlabelled = measure_fidelity({"e0": logits(0, 1, 2, 0)}, {"e0": logits(0, 1, 1, 2)}, labels=None)
    (warning,) = loss_warnings(unlabelled)
    assert "'e0' predicts another class than fp32 in 50.0 %" in warning
    assert loss_warnings(unlabelled, max_loss=0.5) == []


def test_fidelity_of_maps_leaves_out_ignored_pixels():
    fp32 = np.moveaxis(logits(0, 1, 2, 0).reshape(1, 2, 2, 3), 3, 1)
    reduced = np.moveaxis(logits(0, 1, 2, 2).reshape(1, 2, 2, 3), 3, 1)
    labels = np.array([[[0, 0], [IGNORED, 0]]])
    (exit_,) = measure_fidelity({"e0": fp32}, {"e0": reduced}, labels=labels).exits.values()
    assert (exit_.agreement, exit_.accuracy, exit_.accuracy_fp32) == (0.75, 1 / 3, 2 / 3)


def test_a_loss_of_exactly_max_loss_gives_no_warning():
    fp32 = logits(*[0] * 100)
    reduced = logits(*[0] * 99, 1)
    assert loss_warnings(measure_fidelity({"e": fp32}, {"e": reduced}, labels=None), max_loss=0.01) == []
    right = measure_fidelity({"e": fp32}, {"e": logits(*[0] * 98, 1, 1)}, labels=np.zeros(100, dtype=np.int64))
    assert "an accuracy of 98.0 %, in fp32 100.0 %" in loss_warnings(right)[0]

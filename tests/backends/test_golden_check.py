"""Comparison of logits with the golden samples, within the tolerance of the precision."""

import numpy as np
import pytest

from edgeexit.backends.golden_check import check_exit
from edgeexit.errors import EngineError

GOLDEN = np.array([[10, 0, 0], [0, 8, 0], [0, 3.9, 4]], dtype=np.float32)


def test_rounding_errors_pass_and_are_reported():
    check = check_exit("e0", GOLDEN, GOLDEN + np.float32(0.005), "fp32")
    assert check.max_error == pytest.approx(0.005, rel=1e-3)
    assert check.tolerance == pytest.approx(0.01)
    assert (check.samples, check.agreement) == (3, 1)


@pytest.mark.parametrize(("precision", "passes"), [("fp32", False), ("fp16", True), ("int8", True)])
def test_the_tolerance_follows_the_precision_and_the_logits_scale(precision, passes):
    found = GOLDEN.copy()
    found[0, 0] -= 0.15
    if passes:
        assert check_exit("e0", GOLDEN, found, precision).agreement == 1
    else:
        with pytest.raises(
            EngineError, match=r"exit 'e0' differs from the golden samples by up to 0\.15, but fp32 allows only"
        ):
            check_exit("e0", GOLDEN, found, precision)


def test_a_different_top_1_class_passes_if_the_logits_are_close_and_lowers_the_agreement():
    found = GOLDEN.copy()
    found[2] = [0, 4, 3.9]
    assert check_exit("e0", GOLDEN, found, "fp16").agreement == pytest.approx(2 / 3)


def test_a_different_top_1_class_is_refused_if_the_logits_are_not_close():
    golden = np.array([[10, 0], [0, 3]], dtype=np.float32)
    found = np.array([[10, 0], [1.6, 1.4]], dtype=np.float32)
    with pytest.raises(
        EngineError, match=r"exit 'deep' predicts another class .* 50\.0% .* 2\.5, the tolerance of int8"
    ):
        check_exit("deep", golden, found, "int8")


def test_another_correct_int8_execution_passes_and_other_weights_do_not():
    rng = np.random.default_rng(0)
    golden = 4 * rng.standard_normal((8, 10)).astype(np.float32)
    largest = np.abs(golden).max()
    other_order = golden + 0.16 * largest * rng.uniform(-1, 1, golden.shape).astype(np.float32)
    assert check_exit("e0", golden, other_order, "int8").max_error > 0.1 * largest
    with pytest.raises(EngineError, match="but int8 allows only"):
        check_exit("e0", golden, 4 * rng.standard_normal((8, 10)).astype(np.float32), "int8")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(value):
    found = GOLDEN.copy()
    found[1, 1] = value
    with pytest.raises(EngineError, match="by up to inf"):
        check_exit("e0", GOLDEN, found, "int8")


def test_segmentation_counts_the_agreement_per_pixel():
    golden = np.zeros((2, 3, 4, 4), dtype=np.float32)
    golden[:, 1] = 5
    found = golden.copy()
    found[0, :, 0, 0] = [5.05, 5, 0]
    golden[0, :, 0, 0] = [5, 5.05, 0]
    assert check_exit("e0", golden, found, "fp16").agreement == pytest.approx(31 / 32)


def test_another_shape_is_refused():
    with pytest.raises(EngineError, match=r"exit 'e0' has shape \(2, 3\)"):
        check_exit("e0", GOLDEN, GOLDEN[:2], "fp32")

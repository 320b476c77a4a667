"""Whether logits are those of the golden samples, as far as the precision allows."""

import numpy as np
import pytest

from edgeexit.backends.tensorrt.engines import check_exit
from edgeexit.errors import EngineError

GOLDEN = np.array([[10, 0, 0], [0, 8, 0], [0, 3.9, 4]], dtype=np.float32)


def test_rounding_is_told_and_let_pass():
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
        with pytest.raises(EngineError, match=r"exit 'e0' differs from the golden samples by up to 0\.15 where fp32"):
            check_exit("e0", GOLDEN, found, precision)


def test_a_close_answer_may_turn_and_is_counted():
    found = GOLDEN.copy()
    found[2] = [0, 4, 3.9]
    assert check_exit("e0", GOLDEN, found, "fp16").agreement == pytest.approx(2 / 3)


def test_an_answer_that_is_not_close_may_not_turn():
    golden = np.array([[10, 0], [0, 3]], dtype=np.float32)
    found = np.array([[10, 0], [1.6, 1.4]], dtype=np.float32)
    with pytest.raises(EngineError, match=r"exit 'deep' gives another class .* 50\.0%"):
        check_exit("deep", golden, found, "int8")


def test_int8_that_is_run_in_another_right_way_passes_and_other_weights_do_not():
    rng = np.random.default_rng(0)
    golden = 4 * rng.standard_normal((8, 10)).astype(np.float32)
    largest = np.abs(golden).max()
    other_order = golden + 0.16 * largest * rng.uniform(-1, 1, golden.shape).astype(np.float32)
    assert check_exit("e0", golden, other_order, "int8").max_error > 0.1 * largest
    with pytest.raises(EngineError, match="where int8 explains"):
        check_exit("e0", golden, 4 * rng.standard_normal((8, 10)).astype(np.float32), "int8")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused(value):
    found = GOLDEN.copy()
    found[1, 1] = value
    with pytest.raises(EngineError, match="by up to inf"):
        check_exit("e0", GOLDEN, found, "int8")


def test_pixels_are_answers_too():
    golden = np.zeros((2, 3, 4, 4), dtype=np.float32)
    golden[:, 1] = 5
    found = golden.copy()
    found[0, :, 0, 0] = [5.05, 5, 0]
    golden[0, :, 0, 0] = [5, 5.05, 0]
    assert check_exit("e0", golden, found, "fp16").agreement == pytest.approx(31 / 32)


def test_another_shape_is_refused():
    with pytest.raises(EngineError, match=r"exit 'e0' is \(2, 3\)"):
        check_exit("e0", GOLDEN, GOLDEN[:2], "fp32")

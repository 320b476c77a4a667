"""Size ranges of symbolic dimensions."""

import pytest

from edgeexit.backends.dimensions import check_range, parse_dimensions, parse_range, symbolic_dimensions
from edgeexit.bundle.manifest import TensorSpec
from edgeexit.errors import EngineError


def test_options_with_ranges_are_parsed():
    assert parse_range("--batch", "1,8,32") == (1, 8, 32)
    assert parse_dimensions(["n=1,2,3", "m.2=4,4,4"]) == {"n": (1, 2, 3), "m.2": (4, 4, 4)}


@pytest.mark.parametrize("texts", [["length"], ["=1,2,3"], ["length=1,2"], ["length=1,2,x"], ["n=1,2,3", "n=1,2,3"]])
def test_a_malformed_or_repeated_dimension_option_is_refused(texts):
    with pytest.raises(EngineError, match="--dimension"):
        parse_dimensions(texts)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 3, 2)])
def test_a_range_must_be_ordered_and_positive(sizes):
    with pytest.raises(EngineError, match=r"the range of 'length' is .*; give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX"):
        check_range("length", sizes)


def test_symbolic_dimensions_are_named_with_the_first_tensor_that_has_them():
    tensors = [
        TensorSpec(name="x", dtype="float32", shape=("batch", "length", 8)),
        TensorSpec(name="y", dtype="float32", shape=("batch", "length", "width")),
    ]
    assert symbolic_dimensions(tensors) == {"length": "x", "width": "y"}

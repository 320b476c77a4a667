"""A region of a reshaped tensor is found in the tensor before the reshape."""

from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.compiler.unpack.regions import (
    AxisPart,
    at_axis,
    broadcast_part,
    compose,
    dims_of_region,
    is_slice,
    part_of,
    progression,
)
from edgeexit.compiler.unpack.reshapes import through_reshape

SIZES = {"batch": 5, "length": 7}


def size_of(factors):
    return prod(SIZES.get(factor, factor) for factor in factors)


@st.composite
def reshapes(draw):
    """Draw (dimension, size) of each axis before and after a reshape, and a region of the axes after it."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 4, "batch", "length"]), min_size=1, max_size=5))
    sides = []
    for _ in range(2):
        ends = sorted(draw(st.sets(st.integers(1, len(factors)), max_size=4)) | {len(factors)})
        groups = [factors[start:end] for start, end in pairwise([0, *ends])]
        sides.append([(draw(st.sampled_from(descriptions(group))), size_of(group)) for group in groups])
    before, after = sides
    choices = [axis for axis, (dim, _) in enumerate(after) if isinstance(dim, int) and dim > 1]
    region = [None] * len(after)
    for axis in draw(st.sets(st.sampled_from(choices), max_size=2)) if choices else ():
        size = after[axis][0]
        start, step = draw(st.integers(0, size - 1)), draw(st.integers(1, 2))
        region[axis] = part_of(range(start, draw(st.integers(start + 1, size)), step), size)
    return before, after, tuple(region)


def descriptions(group):
    """Return the ways in which the dimension that is the product of some factors may be known."""
    if all(isinstance(factor, int) for factor in group):
        return [prod(group)]
    return group if len(group) == 1 else [None, "*".join(sorted(map(str, group)))]


def number(dim):
    return size_of(int(factor) if factor.isdigit() else factor for factor in str(dim).split("*"))


def select(array, region):
    for axis, part in enumerate(region):
        if part is not None:
            array = array.take(indices_of(part, array.shape[axis]), axis)
    return array


def indices_of(part, length):
    """Return the indices that a part selects on an axis of a known length."""
    outer, inner = (None if None in dims else prod(map(number, dims)) for dims in (part.outer, part.inner))
    outer = length // part.size // inner if outer is None else outer
    inner = length // part.size // outer if inner is None else inner
    assert outer * part.size * inner == length
    return np.arange(length).reshape(outer, part.size, inner)[:, list(part.picked)].reshape(-1)


@given(reshapes())
@settings(max_examples=400, deadline=None)
def test_the_region_before_a_reshape_has_the_same_elements(drawn):
    before, after, region = drawn
    source = through_reshape(tuple(dim for dim, _ in before), tuple(dim for dim, _ in after), region)
    if source is None:
        return
    sizes_before, sizes_after = ([size for _, size in side] for side in (before, after))
    array = np.arange(prod(sizes_before))
    found = select(array.reshape(sizes_before), source)
    assert found.reshape(-1).tolist() == select(array.reshape(sizes_after), region).reshape(-1).tolist()
    expected = dims_of_region(tuple(dim for dim, _ in before), source)
    assert all(dim is None or number(dim) == size for dim, size in zip(expected, found.shape, strict=True))


THIRD = range(2, 3)


@pytest.mark.parametrize(
    ("before", "after", "axis", "part", "expected"),
    [
        pytest.param(
            ("batch", 3, 8),
            (None, 8),
            0,
            AxisPart(THIRD, 3, ("batch",)),
            (None, AxisPart(THIRD, 3), None),
            id="every third row",
        ),
        pytest.param(
            (None, 8),
            ("batch", 3, 8),
            1,
            AxisPart(THIRD, 3),
            (AxisPart(THIRD, 3, ("batch",)), None),
            id="exits in rows",
        ),
        pytest.param(
            (None, 8),
            (3, "batch", 8),
            0,
            AxisPart(THIRD, 3),
            (AxisPart(THIRD, 3, (), ("batch",)), None),
            id="exits in blocks",
        ),
        pytest.param(
            (3, "n", 8),
            (None, 8),
            0,
            AxisPart(THIRD, 3, (), ("n",)),
            (AxisPart(THIRD, 3), None, None),
            id="a block of rows",
        ),
        pytest.param(
            ("batch", 12),
            ("batch", 3, 4),
            1,
            AxisPart(THIRD, 3),
            (None, AxisPart(range(8, 12), 12)),
            id="exits in columns",
        ),
        pytest.param(
            ("batch", 3, 4),
            ("batch", 12),
            1,
            AxisPart(range(8, 12), 12),
            (None, AxisPart(THIRD, 3), None),
            id="columns",
        ),
        pytest.param(
            ("n", 4, 3),
            ("n", 12),
            1,
            AxisPart(range(2, 12, 3), 12),
            (None, None, AxisPart(THIRD, 3)),
            id="every third column",
        ),
    ],
)
def test_packed_exits_are_found_behind_a_reshape(before, after, axis, part, expected):
    assert through_reshape(before, after, at_axis(len(after), axis, part)) == expected


def test_a_part_of_an_axis_that_mixes_samples_and_exits_is_not_guessed():
    assert through_reshape((None, 8), ("batch", 12), at_axis(2, 1, AxisPart(range(4), 12))) is None
    assert through_reshape((2, "n"), ("m", 2), at_axis(2, 1, AxisPart(range(1), 2))) is None


def test_operands_of_unknown_size_may_be_broadcast_so_their_part_is_not_guessed():
    part = AxisPart(range(1), 3)
    assert broadcast_part([3, 1, 3], part) == [part, None, part]
    assert broadcast_part([None, 1], part) == [part, None]
    assert broadcast_part([3, None], part) is None
    assert broadcast_part(["batch", "rows"], part) is None


@pytest.mark.parametrize("outer", [range(2, 9, 2), range(8, 0, -3), range(5)])
@pytest.mark.parametrize("inner", [range(1), range(1, 3), range(2, 0, -1)])
def test_elements_of_elements(outer, inner):
    assert list(compose(outer, inner)) == [outer[index] for index in inner]


def test_numbers_with_equal_steps_are_a_range():
    assert progression([3]) == range(3, 4)
    assert progression([4, 2, 0]) == range(4, -2, -2)
    assert progression([0, 1, 3]) is progression([1, 1]) is progression([]) is None


def test_rows_of_samples_are_one_slice_but_blocks_are_not():
    assert is_slice((AxisPart(range(1, 2), 3, ("batch",)), AxisPart(range(2), 4), None))
    assert not is_slice((AxisPart(range(1, 2), 3, (), ("batch",)),))

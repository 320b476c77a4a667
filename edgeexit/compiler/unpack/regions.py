"""Regions of tensors: which elements of each axis are needed, and where they are before a reshape."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Final, NamedTuple

import onnx_ir as ir

Dim = int | str | None
"""Size of an axis, name of a symbolic dimension, or None if it is unknown. Equal names are equal sizes."""
Dims = tuple[Dim, ...]


INFERRED: Final = "?"
"""First character of the names that `named_dimensions` gives to dimensions."""


def multiple_of(dims: Dims) -> str | None:
    """Return the name of a dimension that is a product of numbers and one name, or None if it is another product."""
    extent = _extent(dims)
    if extent is None or len(extent.names) != 1 or extent.number == 1:
        return None
    return f"{INFERRED}{extent.number}*{extent.names[0]}"


def factors_of(dim: str | None) -> tuple[int, tuple[str, ...]]:
    """Return a dimension as a product of a number and names; an unknown one has no names."""
    number, star, name = (dim or "").removeprefix(INFERRED).partition("*")
    if dim is not None and dim.startswith(INFERRED) and star:
        return int(number), (name,)
    return 1, () if dim is None else (dim,)


class AxisPart(NamedTuple):
    """Some elements of one axis, which has the dimensions [*outer, size, *inner] if it is not flattened.

    Most axes have no outer and inner dimensions. Rows k, k + K, ... of an axis [batch * K] have the outer dimension
    `batch` and the size K; block k of an axis [K * batch] has the inner dimension `batch`.
    """

    picked: range
    """Indices along the dimension `size`; never all of them."""
    size: int
    outer: Dims = ()
    inner: Dims = ()

    @property
    def is_plain(self) -> bool:
        """True if the axis has no outer and inner dimensions."""
        return not self.outer and not self.inner


Region = tuple[AxisPart | None, ...]
"""The needed part of each axis; None means the full axis."""


def dims_of(value: ir.Value | None) -> Dims | None:
    """Return the dimensions of a value, or None if its rank is unknown or there is no value."""
    if value is None:
        return None
    shape = value.shape if value.const_value is None else value.const_value.shape
    if shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in shape)


def part_of(picked: range, size: int) -> AxisPart | None:
    """Return the part of a plain axis, or None if all elements are picked in order."""
    return None if picked == range(size) else AxisPart(picked, size)


def at_axis(rank: int, axis: int, part: AxisPart | None) -> Region:
    """Return a region that restricts one axis."""
    return tuple(part if index == axis else None for index in range(rank))


def is_full(region: Region) -> bool:
    """Return True if a region restricts no axis."""
    return all(part is None for part in region)


def is_slice(region: Region) -> bool:
    """Return True if one ONNX Slice returns the region."""
    return all(part is None or part.is_plain or (not part.inner and len(part.picked) == 1) for part in region)


def compose(outer: range, inner: range) -> range:
    """Return the elements `inner` of the elements `outer`."""
    start, step = outer.start + inner.start * outer.step, outer.step * inner.step
    return range(start, start + step * len(inner), step)


def progression(numbers: Sequence[int]) -> range | None:
    """Return the range that equals some numbers, or None if there is none."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if not numbers or step == 0:
        return None
    found = range(numbers[0], numbers[0] + step * len(numbers), step)
    return found if list(found) == list(numbers) else None


def dims_of_region(dims: Dims, region: Region) -> Dims:
    """Return the dimensions of a region of a tensor with the dimensions `dims`."""
    return tuple(dim if part is None else _dim_of(part) for dim, part in zip(dims, region, strict=True))


def through_reshape(before: Dims, after: Dims, region: Region) -> Region | None:
    """Return the region of a tensor that contains `region` of the reshaped tensor, or None if it is not one region.

    Args:
        before: dimensions of the tensor.
        after: dimensions of the reshaped tensor.
        region: region of the reshaped tensor.

    """
    found: list[AxisPart | None] = [None] * len(before)
    for ins, outs in _groups(before, after):
        restricted = [axis for axis in outs if region[axis] is not None]
        if not restricted:
            continue
        part = region[restricted[0]]
        if part is None or len(restricted) > 1 or not ins:
            return None
        if len(ins) == len(outs) == 1:
            found[ins[0]] = part
            continue
        outer = (*(after[axis] for axis in outs if axis < restricted[0]), *part.outer)
        inner = (*part.inner, *(after[axis] for axis in outs if axis > restricted[0]))
        axes = [axis for axis in ins if before[axis] != 1]
        parts = _spread(part._replace(outer=outer, inner=inner), [before[axis] for axis in axes])
        if parts is None:
            return None
        for axis, piece in zip(axes, parts, strict=True):
            found[axis] = piece
    return tuple(found)


def flattened_dims(before: Dims, after: Dims) -> dict[int, Dims]:
    """Return axis -> the dimensions before a reshape that it flattens."""
    groups = _groups(before, after)
    return {outs[0]: tuple(before[axis] for axis in ins) for ins, outs in groups if len(outs) == 1 and len(ins) > 1}


class _Extent(NamedTuple):
    """A product of dimensions: an integer times names."""

    number: int
    names: tuple[str, ...]

    @property
    def is_one(self) -> bool:
        return self.number == 1 and not self.names

    def divided_by(self, dim: Dim) -> "_Extent | None":
        """Return the quotient, or None if it is no product of dimensions."""
        if isinstance(dim, int):
            return None if self.number % dim else self._replace(number=self.number // dim)
        if dim not in self.names:
            return None
        names = list(self.names)
        names.remove(dim)
        return self._replace(names=tuple(names))

    def as_dims(self) -> Dims:
        return (*([self.number] if self.number != 1 else []), *self.names)


def _extent(dims: Dims) -> _Extent | None:
    """Return the product of dimensions, or None if one is unknown."""
    if None in dims:
        return None
    factors = [(dim, ()) if isinstance(dim, int) else factors_of(dim) for dim in dims]
    return _Extent(prod(number for number, _ in factors), tuple(sorted(name for _, names in factors for name in names)))


def _dim_of(part: AxisPart) -> Dim:
    extent = _extent((*part.outer, len(part.picked), *part.inner))
    if extent is None or (extent.names and (extent.number, len(extent.names)) != (1, 1)):
        return None
    return extent.names[0] if extent.names else extent.number


def _groups(before: Dims, after: Dims) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Divide the axes before and after a reshape into groups with equal numbers of elements.

    Groups are found from both ends. The axes between them are one group.
    """
    heads = _leading_groups(before, after)
    low = sum(count for count, _ in heads), sum(count for _, count in heads)
    tails = _leading_groups(before[low[0] :][::-1], after[low[1] :][::-1])[::-1]
    high = len(before) - sum(count for count, _ in tails), len(after) - sum(count for _, count in tails)
    counts = [*heads, (high[0] - low[0], high[1] - low[1]), *tails]
    groups: list[tuple[Sequence[int], Sequence[int]]] = []
    start = end = 0
    for ins, outs in counts:
        groups.append((range(start, start + ins), range(end, end + outs)))
        start, end = start + ins, end + outs
    return groups


def _leading_groups(before: Dims, after: Dims) -> list[tuple[int, int]]:
    """Return the numbers of axes of the groups at the start, up to the first axes that cannot be compared."""
    groups: list[tuple[int, int]] = []
    start = end = 0
    while start < len(before) and end < len(after):
        found = _first_group(before[start:], after[end:])
        if found is None:
            break
        groups.append(found)
        start, end = start + found[0], end + found[1]
    return groups


def _first_group(before: Dims, after: Dims) -> tuple[int, int] | None:
    """Return how many of the first axes before and after a reshape have the same product, or None if unknown."""
    one, other = before[0], after[0]
    if one == other and one is not None:
        return 1, 1
    if not isinstance(one, int) or not isinstance(other, int):
        if one == 1:
            return 1, 0
        return (0, 1) if other == 1 else None
    ins = outs = 1
    while one != other:
        grows, taken = (before, ins) if one < other else (after, outs)
        factor = grows[taken] if taken < len(grows) else None
        if not isinstance(factor, int):
            return None
        if one < other:
            one, ins = one * factor, ins + 1
        else:
            other, outs = other * factor, outs + 1
    return ins, outs


def _spread(part: AxisPart, dims: Sequence[Dim]) -> list[AxisPart | None] | None:
    """Return the parts of axes with the sizes `dims` that are together a part of the flattened axis, or None."""
    left, right = _extent(part.outer), _extent(part.inner)
    low, high = 0, len(dims)
    while high > low and right is not None and not right.is_one:
        rest = right.divided_by(dims[high - 1])
        if rest is None:
            break
        right, high = rest, high - 1
    while low < high and left is not None and not left.is_one:
        rest = left.divided_by(dims[low])
        if rest is None:
            break
        left, low = rest, low + 1
    found: list[AxisPart | None] = [None] * len(dims)
    if low == high:
        return None
    if high - low == 1 and not isinstance(dims[low], int):
        outer = (None,) if left is None else left.as_dims()
        inner = (None,) if right is None else right.as_dims()
        found[low] = AxisPart(part.picked, part.size, outer, inner)
        return found
    if right is not None and not right.names:
        ends = _spread_over_static(part.picked, part.size, right.number, dims[low:high])
    elif left is not None and left.is_one:
        ends = _leading_part(part.picked, part.size, dims[low:high])
    else:
        return None
    if ends is None:
        return None
    found[low:high] = ends
    return found


def _leading_part(picked: range, size: int, dims: Sequence[Dim]) -> list[AxisPart | None] | None:
    """Return the parts if the first axis, which holds `size` equal blocks, has a known size."""
    first = dims[0]
    if not isinstance(first, int) or first % size or picked.step != 1:
        return None
    scale = first // size
    return [part_of(range(picked.start * scale, picked.stop * scale), first), *[None] * (len(dims) - 1)]


def _spread_over_static(picked: range, size: int, inner: int, dims: Sequence[Dim]) -> list[AxisPart | None] | None:
    """Return the parts if the last axis of the flattened axis [..., size, inner] has a known size."""
    last = dims[-1]
    others: list[AxisPart | None] = [None] * (len(dims) - 1)
    if not isinstance(last, int) and len(dims) == inner == 1:
        return [AxisPart(picked, size, outer=(None,))]
    if not isinstance(last, int) or (inner > 1 and picked.step != 1):
        return None
    flat = picked if inner == 1 else range(picked.start * inner, picked.stop * inner)
    if last == size * inner:
        return [*others, part_of(flat, last)]
    if last % (size * inner) == 0:
        repeats = inner == 1 and len(picked) == 1
        return [*others, AxisPart(range(picked.start, last, size), last)] if repeats else None
    inside = _inside(flat, last)
    if inside is None or not others or size * inner % last:
        return None
    rows, columns = inside
    height = size * inner // last
    above = others if rows == range(height) else _spread_over_static(rows, height, 1, dims[:-1])
    return None if above is None else [*above, part_of(columns, last)]


def _inside(flat: range, columns: int) -> tuple[range, range] | None:
    """Return the rows and columns of a matrix that are together the flattened elements `flat`, or None."""
    first, last = flat[0], flat[-1]
    if flat.step < 1:
        return None
    if flat.step == 1 and first % columns == 0 and (last + 1) % columns == 0:
        return range(first // columns, (last + 1) // columns), range(columns)
    if first // columns == last // columns:
        row = first // columns
        return range(row, row + 1), range(first - row * columns, last - row * columns + 1, flat.step)
    if flat.step % columns == 0:
        rows = range(first // columns, last // columns + 1, flat.step // columns)
        return rows, range(first % columns, first % columns + 1)
    return None


def broadcast_part(dims: Iterable[Dim | None], part: AxisPart) -> list[AxisPart | None] | None:
    """Return the part of each operand along one broadcast axis, or None if it is not certain.

    Args:
        dims: the operands' sizes along the axis; 1 if an operand lacks the axis.
        part: the part of the result.

    """
    sizes = list(dims)
    wide = [size for size in sizes if size != 1]
    sure = len(wide) == 1 or (None not in wide and len(set(wide)) == 1)
    return [None if size == 1 else part for size in sizes] if wide and sure else None

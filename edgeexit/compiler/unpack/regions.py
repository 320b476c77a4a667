"""Describes regions of tensors: which elements of each axis are needed, also if a dimension is symbolic."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Final, NamedTuple

import onnx_ir as ir

Dim = int | str | None
"""Size of an axis, name of a symbolic dimension, or None if it is unknown. Equal names are equal sizes."""
Dims = tuple[Dim, ...]

INFERRED: Final = "?"
"""First character of the names that `named_dimensions` gives to dimensions."""


class Extent(NamedTuple):
    """A product of dimensions: an integer times names."""

    number: int
    names: tuple[str, ...]

    @property
    def is_one(self) -> bool:
        """True for the product of no dimensions."""
        return self.number == 1 and not self.names

    def divided_by(self, dim: Dim) -> "Extent | None":
        """Return the quotient, or None if it is not a product of dimensions."""
        if isinstance(dim, int):
            return None if self.number % dim else self._replace(number=self.number // dim)
        if dim not in self.names:
            return None
        names = list(self.names)
        names.remove(dim)
        return self._replace(names=tuple(names))

    def as_dims(self) -> Dims:
        """Return the factors, the number first."""
        return (*([self.number] if self.number != 1 else []), *self.names)


def extent_of(dims: Dims) -> Extent | None:
    """Return the product of dimensions, or None if one is unknown."""
    if None in dims:
        return None
    factors = [(dim, ()) if isinstance(dim, int) else factors_of(dim) for dim in dims]
    return Extent(prod(number for number, _ in factors), tuple(sorted(name for _, names in factors for name in names)))


def multiple_of(dims: Dims) -> str | None:
    """Return the name of a dimension that is a product of numbers and one name, or None if it is another product."""
    extent = extent_of(dims)
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


def _dim_of(part: AxisPart) -> Dim:
    extent = extent_of((*part.outer, len(part.picked), *part.inner))
    if extent is None or (extent.names and (extent.number, len(extent.names)) != (1, 1)):
        return None
    return extent.names[0] if extent.names else extent.number

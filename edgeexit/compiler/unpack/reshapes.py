"""Finds the region of a tensor that a reshape turns into a given region of its result."""

from collections.abc import Sequence

from edgeexit.compiler.unpack.regions import AxisPart, Dim, Dims, Region, extent_of, part_of


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
    left, right = extent_of(part.outer), extent_of(part.inner)
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

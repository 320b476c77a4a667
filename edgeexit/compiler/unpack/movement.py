"""Rules for operators that move data: which region of the input holds a region of the output."""

from collections.abc import Sequence
from itertools import accumulate

import onnx_ir as ir

from edgeexit.compiler.unpack.constants import axes_of, axis_of, integers_of
from edgeexit.compiler.unpack.pull import BuildTarget, Operand, Pull, copy_of, first_of, join_along
from edgeexit.compiler.unpack.regions import (
    AxisPart,
    Dim,
    Region,
    dims_of,
    part_of,
    progression,
)
from edgeexit.compiler.unpack.reshapes import through_reshape
from edgeexit.compiler.unpack.rewriter import Rewriter


def identity(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Identity: the region of the input."""
    return None if node.inputs[0] is None else first_of(node.inputs[0], region)


def transpose(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Transpose: permute the region."""
    perm = node.attributes.get_ints("perm", tuple(reversed(range(len(region)))))
    source: list[AxisPart | None] = [None] * len(region)
    for axis, part in zip(perm, region, strict=True):
        source[axis] = part
    return copy_of(node, [tuple(source)])


def unsqueeze(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Unsqueeze: drop the new axes."""
    axes = axes_of(node, len(region))
    if axes is None:
        return None
    source = tuple(part for axis, part in enumerate(region) if axis not in axes)
    return copy_of(node, [source, *[None] * (len(node.inputs) - 1)])


def squeeze(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Squeeze: add the removed axes."""
    dims = dims_of(node.inputs[0])
    axes = None if dims is None else axes_of(node, len(dims))
    if dims is None or not axes:
        return None
    parts = iter(region)
    source = tuple(None if axis in axes else next(parts) for axis in range(len(dims)))
    return copy_of(node, [source, *[None] * (len(node.inputs) - 1)])


def flatten(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Flatten: the result of a part of the input has two axes, too."""
    before, after = dims_of(node.inputs[0]), dims_of(node.outputs[0])
    source = None if before is None or after is None else through_reshape(before, after, region)
    return None if source is None else copy_of(node, [source])


def reshape(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Reshape: find the region among the axes of the input, and reshape it to the sizes of the region."""
    data, sizes = node.inputs
    before, after = dims_of(data), dims_of(node.outputs[0])
    source = None if before is None or after is None else through_reshape(before, after, region)
    if data is None or sizes is None or before is None or after is None or source is None:
        return None
    counts = [_count(dim, part) for dim, part in zip(after, region, strict=True)]
    if counts.count(None) <= 1:
        target = [-1 if count is None else count for count in counts]
        return Pull((Operand(data, source),), lambda rewriter, to, values: _reshaped(rewriter, to, values[0], target))
    fixed = {axis: count for axis, count in enumerate(counts) if count is not None and region[axis] is not None}
    if any(part is not None and not part.is_plain for part in region):
        return None
    if sizes.const_value is not None and any(
        number == 0 and axis not in fixed and source[axis] is not None
        for axis, number in enumerate(sizes.const_value.numpy())
    ):
        return None  # the size is copied from an axis of the input that has another size now

    def build(rewriter: Rewriter, to: BuildTarget, values: Sequence[ir.Value]) -> ir.Value:
        edited = rewriter.edit_shape(values[1], len(counts), fixed)
        return rewriter.copy(node, [values[0], edited], like=to.value, shape=to.shape)

    return Pull((Operand(data, source), Operand(sizes)), build)


def expand(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Expand: restrict the input where it has the axis, and the target shape."""
    data, sizes = node.inputs
    dims, after = dims_of(data), dims_of(node.outputs[0])
    length = None if sizes is None else dims_of(sizes)
    if data is None or sizes is None or dims is None or after is None or not length or not isinstance(length[0], int):
        return None
    source: list[AxisPart | None] = [None] * len(dims)
    replaced = {}
    for axis, part in enumerate(region):
        if part is None:
            continue
        if not part.is_plain:
            return None
        inner = axis - len(after) + len(dims)
        if inner >= 0 and dims[inner] != 1:
            if dims[inner] != part.size:
                return None
            source[inner] = part
        if axis - len(after) + length[0] >= 0:
            replaced[axis - len(after) + length[0]] = len(part.picked)

    def build(rewriter: Rewriter, to: BuildTarget, values: Sequence[ir.Value]) -> ir.Value:
        edited = rewriter.edit_shape(values[1], int(str(length[0])), replaced)
        return rewriter.copy(node, [values[0], edited], like=to.value, shape=to.shape)

    return Pull((Operand(data, tuple(source)), Operand(sizes)), build)


def constant_of_shape(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """ConstantOfShape: make the sizes smaller."""
    sizes = node.inputs[0]
    if sizes is None or any(part is not None and not part.is_plain for part in region):
        return None
    replaced = {axis: len(part.picked) for axis, part in enumerate(region) if part is not None}

    def build(rewriter: Rewriter, to: BuildTarget, values: Sequence[ir.Value]) -> ir.Value:
        edited = rewriter.edit_shape(values[0], len(region), replaced)
        return rewriter.copy(node, [edited], like=to.value, shape=to.shape)

    return Pull((Operand(sizes),), build)


def concat(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Concat: only the operands that hold elements of the region."""
    axis = axis_of(node, len(region))
    part = region[axis]
    operands = [value for value in node.inputs if value is not None]
    if part is None:
        return copy_of(node, [region] * len(node.inputs))
    needed = _blocks(operands, axis, part) if part.inner else _segments(operands, axis, part)
    if needed is None:
        return None
    pieces = tuple(Operand(value, (*region[:axis], piece, *region[axis + 1 :])) for value, piece in needed)
    return Pull(pieces, join_along(axis))


def pad(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Pad: axes without padding are restricted."""
    pads = integers_of(node.inputs[1])
    has_axes = len(node.inputs) > 3 and node.inputs[3] is not None  # noqa: PLR2004
    if pads is None or has_axes:
        return None
    rank = len(region)
    if any(part is not None and (pads[axis] or pads[axis + rank]) for axis, part in enumerate(region)):
        return None
    return copy_of(node, [region, *[None] * (len(node.inputs) - 1)])


def tile(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Tile: axes that are not repeated are restricted."""
    repeats = integers_of(node.inputs[1])
    if repeats is None or any(part is not None and repeats[axis] != 1 for axis, part in enumerate(region)):
        return None
    return copy_of(node, [region, None])


def _reshaped(rewriter: Rewriter, to: BuildTarget, value: ir.Value, sizes: Sequence[int]) -> ir.Value:
    shape = rewriter.integers(sizes, name=f"{to.value.name}.shape")
    return rewriter.emit("Reshape", [value, shape], like=to.value, shape=to.shape)


def _segments(operands: Sequence[ir.Value], axis: int, part: AxisPart) -> list[tuple[ir.Value, AxisPart | None]] | None:
    """Return the parts of concatenated values that hold a part of the result, in its order."""
    dims = [dims_of(value) for value in operands]
    sizes = [known[axis] for known in dims if known is not None]
    static = [size for size in sizes if isinstance(size, int)]
    if not part.is_plain or len(static) < len(operands) or sum(static) != part.size:
        return None
    found = []
    for value, size, end in zip(operands, static, accumulate(static), strict=True):
        inside = progression([index - end + size for index in part.picked if end - size <= index < end])
        if inside is not None:
            found.append((value, part_of(inside, size)))
    return found if part.picked.step > 0 else found[::-1]


def _blocks(operands: Sequence[ir.Value], axis: int, part: AxisPart) -> list[tuple[ir.Value, AxisPart | None]] | None:
    """Return those of equally large concatenated values that are the blocks `part` of the result."""
    dims = [dims_of(value) for value in operands]
    sizes = {known[axis] if known is not None else None for known in dims}
    if part.outer or len(operands) != part.size or sizes != set(part.inner):
        return None
    return [(operands[index], None) for index in part.picked]


def _count(dim: Dim, part: AxisPart | None) -> int | None:
    if part is None:
        return dim if isinstance(dim, int) else None
    return len(part.picked) if part.is_plain else None

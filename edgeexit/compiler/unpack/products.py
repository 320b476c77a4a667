"""Rules for matmuls, convolutions and einsum: rows, columns, batches and groups."""

from collections.abc import Sequence
from math import ceil

import onnx_ir as ir

from edgeexit.compiler.unpack.pull import BuildTarget, Operand, Pull, copy_of
from edgeexit.compiler.unpack.regions import AxisPart, Dims, Region, broadcast_part, dims_of, part_of
from edgeexit.compiler.unpack.rewriter import Rewriter

_MATRIX = 2


def matmul(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """MatMul and MatMulInteger: rows of the first operand, columns of the second, batches of both."""
    left, right = dims_of(node.inputs[0]), dims_of(node.inputs[1])
    if left is None or right is None or len(left) < _MATRIX or len(right) < _MATRIX or len(node.inputs) > _MATRIX:
        return None
    first: list[AxisPart | None] = [None] * len(left)
    second: list[AxisPart | None] = [None] * len(right)
    first[-2], second[-1] = region[-2:]
    for axis, part in enumerate(region[:-2]):
        if part is None:
            continue
        places = [axis - len(region) + len(dims) for dims in (left, right)]
        sizes = [dims[place] if place >= 0 else 1 for dims, place in zip((left, right), places, strict=True)]
        parts = broadcast_part(sizes, part)
        if parts is None:
            return None
        for own, place, piece in zip((first, second), places, parts, strict=True):
            if piece is not None:
                own[place] = piece
    return copy_of(node, [tuple(first), tuple(second)])


def gemm(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Gemm: rows of A, columns of B, both of C."""
    rows, columns = region
    left = (None, rows) if node.attributes.get_int("transA", 0) else (rows, None)
    right = (columns, None) if node.attributes.get_int("transB", 0) else (None, columns)
    if len(node.inputs) == _MATRIX or node.inputs[2] is None:
        return copy_of(node, [left, right, *[None] * (len(node.inputs) - _MATRIX)])
    dims = dims_of(node.inputs[2])
    if dims is None or any(
        part is not None and dim is None for dim, part in zip(dims, region[len(region) - len(dims) :], strict=True)
    ):
        return None
    added = tuple(None if dim == 1 else part for dim, part in zip(dims, region[len(region) - len(dims) :], strict=True))
    return copy_of(node, [left, right, added])


def einsum(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Einsum: restrict every operand that has the label of the axis."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    if "." in equation or "->" not in equation:
        return None
    inputs, result = equation.split("->")
    terms = inputs.split(",")
    dims = [dims_of(value) for value in node.inputs]
    parts = {label: part for label, part in zip(result, region, strict=True) if part is not None}
    sizes: dict[str, set[int | str | None]] = {}
    for term, shape in zip(terms, dims, strict=True):
        if shape is None or len(shape) != len(term) or len(set(term)) < len(term):
            return None
        for label, size in zip(term, shape, strict=True):
            sizes.setdefault(label, set()).add(size)
    for label in parts:
        if len(sizes[label]) > 1:  # broadcast, or not known to be equal
            return None
    return copy_of(node, [tuple(parts.get(label) for label in term) for term in terms])


def convolution(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Conv: restrict the batch, axes on which the kernel has size 1, or the channels of some groups."""
    batch, channels, *space = region
    data, weight = node.inputs[:2]
    dims, sizes = dims_of(data), dims_of(weight)
    if any(part is not None and not _is_pointwise(node, sizes, axis) for axis, part in enumerate(space)):
        return None
    if channels is None:
        return copy_of(node, [(batch, None, *space), *[None] * (len(node.inputs) - 1)])
    groups = node.attributes.get_int("group", 1)
    if data is None or weight is None or dims is None or sizes is None or groups == 1 or not channels.is_plain:
        return None
    size, per_group = dims[1], sizes[1]
    if not isinstance(size, int) or not isinstance(per_group, int) or channels.picked.step != 1:
        return None
    outputs = channels.size // groups
    low, high = channels.picked.start // outputs, ceil(channels.picked.stop / outputs)
    aligned = channels.picked.start % outputs == 0 and channels.picked.stop % outputs == 0
    if not aligned and high - low > 1:
        return None
    source = (batch, part_of(range(low * per_group, high * per_group), size), *space)
    operands = [
        Operand(data, source),
        Operand(weight, (channels, *[None] * (len(sizes) - 1))),
        *[Operand(value, (channels,)) for value in node.inputs[2:] if value is not None],
    ]

    def build(rewriter: Rewriter, to: BuildTarget, values: Sequence[ir.Value]) -> ir.Value:
        attributes = {**{name: attribute.value for name, attribute in node.attributes.items()}, "group": high - low}
        return rewriter.emit("Conv", values, attributes, like=to.value, shape=to.shape)

    return Pull(tuple(operands), build)


def _is_pointwise(node: ir.Node, sizes: Dims | None, axis: int) -> bool:
    """Return True if a convolution computes each element along a spatial axis from the same element."""
    attributes, count = node.attributes, len(sizes or ()) - 2
    pads = attributes.get_ints("pads", (0,) * (2 * count))
    padded = attributes.get_string("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    return (
        sizes is not None
        and sizes[axis + 2] == 1
        and attributes.get_ints("strides", (1,) * count)[axis] == 1
        and not (padded or pads[axis] or pads[axis + count])
    )

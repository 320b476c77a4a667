"""Rules for elementwise operators, normalisations, reductions and pooling."""

from collections.abc import Sequence

import onnx_ir as ir

from edgeexit.compiler.unpack.constants import axes_of, axis_of, scalar_of
from edgeexit.compiler.unpack.pull import BuildTarget, Operand, Pull, copy_of
from edgeexit.compiler.unpack.regions import AxisPart, Region, at_axis, broadcast_part, dims_of, part_of
from edgeexit.compiler.unpack.rewriter import Rewriter


def elementwise(node: ir.Node, output: int, region: Region) -> Pull | None:
    """Elementwise operators with broadcasting: the same region of every operand that has the axis."""
    operands = [value for value in node.inputs if value is not None]
    dims = [dims_of(value) for value in operands]
    known = [shape for shape in dims if shape is not None]
    if output or len(known) < len(operands):
        return None
    regions: list[list[AxisPart | None]] = [[None] * len(shape) for shape in known]
    for axis, part in enumerate(region):
        if part is None:
            continue
        places = [axis - len(region) + len(shape) for shape in known]
        sizes = [shape[place] if place >= 0 else 1 for shape, place in zip(known, places, strict=True)]
        parts = broadcast_part(sizes, part)
        if parts is None:
            return None
        for own, place, piece in zip(regions, places, parts, strict=True):
            if piece is not None:
                own[place] = piece
    found = iter(regions)
    return copy_of(node, [None if value is None else tuple(next(found)) for value in node.inputs])


def first_input(node: ir.Node, output: int, region: Region) -> Pull | None:
    """Operators whose other inputs apply to all elements: Clip, Dropout, CastLike, per-tensor quantisation."""
    return None if output else copy_of(node, [region, *[None] * (len(node.inputs) - 1)])


def quantisation(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """QuantizeLinear and DequantizeLinear: scales and zero points are restricted along their axis."""
    scale = node.inputs[1]
    dims = None if scale is None else dims_of(scale)
    if dims is None or len(dims) > 1 or node.attributes.get_int("block_size"):
        return None
    part = region[axis_of(node, len(region), default=1)] if dims and dims[0] != 1 else None
    return copy_of(node, [region, *[None if part is None else (part,)] * (len(node.inputs) - 1)])


def along_one_axis(node: ir.Node, output: int, region: Region) -> Pull | None:
    """Softmax and other operators along one axis: the other axes are restricted."""
    if output or region[axis_of(node, len(region), default=-1)] is not None:
        return None
    return copy_of(node, [region, *[None] * (len(node.inputs) - 1)])


def from_axis(node: ir.Node, output: int, region: Region) -> Pull | None:
    """LayerNormalization and RMSNormalization: the axes before the normalised ones are restricted."""
    axis = axis_of(node, len(region), default=-1)
    if output or any(part is not None for part in region[axis:]):
        return None
    scales = [None if value is None else dims_of(value) for value in node.inputs[1:]]
    if any(dims is not None and len(dims) > len(region) - axis for dims in scales):
        return None
    return copy_of(node, [region, *[None] * (len(node.inputs) - 1)])


def over_axes(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """MeanVarianceNormalization: the axes that are not normalised are restricted."""
    axes = [axis % len(region) for axis in node.attributes.get_ints("axes", (0, 2, 3))]
    return None if any(region[axis] is not None for axis in axes) else copy_of(node, [region])


def reduction(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Reductions: the axes that remain are restricted."""
    data = node.inputs[0]
    dims = None if data is None else dims_of(data)
    if dims is None:
        return None
    axes = axes_of(node, len(dims))
    if not axes:
        return None
    if node.attributes.get_int("keepdims", 1):
        source = tuple(None if axis in axes else part for axis, part in enumerate(region))
    else:
        parts = iter(region)
        source = tuple(None if axis in axes else next(parts) for axis in range(len(dims)))
    return copy_of(node, [source, *[None] * (len(node.inputs) - 1)])


def arg_reduction(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """ArgMax and ArgMin: the axes that remain are restricted."""
    keeps = node.attributes.get_int("keepdims", 1)
    axis = axis_of(node, len(region) if keeps else len(region) + 1)
    if keeps:
        return copy_of(node, [region]) if region[axis] is None else None
    return copy_of(node, [(*region[:axis], None, *region[axis:])])


def batch_normalisation(node: ir.Node, output: int, region: Region) -> Pull | None:
    """BatchNormalization: the parameters are restricted along the channels."""
    if output or node.attributes.get_int("training_mode", 0) or len(region) < 2:  # noqa: PLR2004
        return None
    part = region[1]
    return copy_of(node, [region, *[None if part is None else (part,)] * (len(node.inputs) - 1)])


def instance_normalisation(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """InstanceNormalization: batch and channels are restricted."""
    if any(part is not None for part in region[2:]):
        return None
    part = region[1]
    return copy_of(node, [region, *[None if part is None else (part,)] * 2])


def batch_axis_only(node: ir.Node, output: int, region: Region) -> Pull | None:
    """GroupNormalization, LRN and others that mix all axes but the first."""
    if output or any(part is not None for part in region[1:]):
        return None
    return copy_of(node, [region, *[None] * (len(node.inputs) - 1)])


def per_channel(node: ir.Node, output: int, region: Region) -> Pull | None:
    """Pooling: batch and channels are restricted."""
    if output or len(node.outputs) > 1 or any(part is not None for part in region[2:]):
        return None
    return copy_of(node, [region])


def resize(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Resize by scales: axes with the scale 1 are restricted."""
    scales = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004
    constant = None if scales is None else scales.const_value
    has_sizes = len(node.inputs) > 3 and node.inputs[3] is not None  # noqa: PLR2004
    is_crop = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if constant is None or has_sizes or is_crop or "axes" in node.attributes:
        return None
    factors = constant.numpy()
    if len(factors) != len(region) or any(part is not None and factors[axis] != 1 for axis, part in enumerate(region)):
        return None
    return copy_of(node, [region, *[None] * (len(node.inputs) - 1)])


def cumulative_sum(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """CumSum: the first elements along the summed axis are the sums of the first elements of the input."""
    data = node.inputs[0]
    axis = scalar_of(node.inputs[1])
    if data is None or axis is None:
        return None
    axis %= len(region)
    part = region[axis]
    if part is None:
        return copy_of(node, [region, None])
    is_range = part.picked.step == 1 or len(part.picked) == 1
    if not part.is_plain or not is_range or node.attributes.get_int("exclusive"):
        return None
    first, last = part.picked[0], part.picked[-1]
    is_reversed = bool(node.attributes.get_int("reverse", 0))
    summed = range(first, part.size) if is_reversed else range(last + 1)
    inside = range(len(part.picked)) if is_reversed else part.picked
    source = (*region[:axis], part_of(summed, part.size), *region[axis + 1 :])

    def build(rewriter: Rewriter, to: BuildTarget, values: Sequence[ir.Value]) -> ir.Value:
        if len(summed) == 1:
            return values[0]
        if len(inside) == 1:
            axes = rewriter.integers([axis], name=f"{to.value.name}.axes")
            return rewriter.emit("ReduceSum", [values[0], axes], {"keepdims": 1}, like=to.value, shape=to.shape)
        sums = rewriter.copy(node, [values[0], values[1]], like=to.value, shape=values[0].shape)
        picked = part_of(inside, len(summed))
        return sums if picked is None else rewriter.cut(sums, at_axis(len(region), axis, picked))

    return Pull((Operand(data, source), *[Operand(value) for value in node.inputs[1:] if value is not None]), build)


def trilu(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Trilu: all axes but the last two are restricted."""
    if any(part is not None for part in region[-2:]):
        return None
    return copy_of(node, [region, *[None] * (len(node.inputs) - 1)])

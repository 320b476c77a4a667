"""Rules for operators that return a part of a tensor: Split, Slice, Gather and sequences of parts."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.unpack.constants import axes_of, axis_of, integers_of, scalar_of
from edgeexit.compiler.unpack.multiples import Linear, linear_of
from edgeexit.compiler.unpack.pull import BuildTarget, Operand, Pull, copy_of, first_of
from edgeexit.compiler.unpack.regions import AxisPart, Dim, Region, compose, dims_of, factors_of, part_of, progression
from edgeexit.compiler.unpack.rewriter import Rewriter

_MIN_OPEN_END: Final = np.iinfo(np.int32).max
"""Exporters write an end of at least this for a slice to the end of the axis."""


def split(node: ir.Node, output: int, region: Region) -> Pull | None:
    """Split: a range of the input."""
    data = node.inputs[0]
    dims = dims_of(data)
    if data is None or dims is None:
        return None
    axis = axis_of(node, len(dims))
    size = dims[axis]
    part = region[axis]
    if not isinstance(size, int):
        block = (dims_of(node.outputs[output]) or dims)[axis]
        if part is not None or block is None or node.attributes.get_int("num_outputs", 0) != len(node.outputs):
            return None
        picked = AxisPart(range(output, output + 1), len(node.outputs), inner=(block,))
        return first_of(data, (*region[:axis], picked, *region[axis + 1 :]))
    sizes = _split_sizes(node, size)
    if sizes is None or (part is not None and not part.is_plain):
        return None
    start = sum(sizes[:output])
    found = range(start, start + sizes[output])
    if part is not None:
        found = compose(found, part.picked)
    return first_of(data, (*region[:axis], part_of(found, size), *region[axis + 1 :]))


def slice_(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Slice: compose it with the region; where that is not possible, slice the region of the input."""
    data = node.inputs[0]
    dims = dims_of(data)
    if data is None or dims is None:
        return None
    sliced = _sliced_parts(node, dims)
    if sliced is None:
        axes = axes_of(node, len(dims), place=3)
        starts = integers_of(node.inputs[1])
        touched = axes if axes is not None else None if starts is None else list(range(len(starts)))
        if touched is None or any(region[axis] is not None for axis in touched):
            return None
        return copy_of(node, [region, *[None] * (len(node.inputs) - 1)])
    source = list(region)
    for axis, part in sliced.items():
        own = region[axis]
        if own is None:
            source[axis] = part
        elif part is None:
            source[axis] = own
        elif part.is_plain and own.is_plain:
            source[axis] = part_of(compose(part.picked, own.picked), part.size)
        else:
            return None
    return first_of(data, tuple(source))


def gather(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """Gather: a range of the input if the indices are a constant range; else, restrict the other axes and indices."""
    data, indices = node.inputs
    dims = dims_of(data)
    if data is None or indices is None or dims is None:
        return None
    rank = dims_of(indices)
    axis = axis_of(node, len(dims), default=0)
    if rank is None:
        return None
    outer, own, inner = region[:axis], region[axis : axis + len(rank)], region[axis + len(rank) :]
    size = dims[axis]
    known = integers_of(indices)
    if known is not None and len(rank) <= 1 and isinstance(size, int):
        numbers = [number + size if number < 0 else number for number in known]
        if own and own[0] is not None:
            numbers = [numbers[index] for index in own[0].picked]
        picked = progression(numbers)
        if picked is not None:
            source = (*outer, part_of(picked, size), *inner)
            return _squeezed(data, source, axis) if not rank else first_of(data, source)
    return copy_of(node, [(*outer, None, *inner), own])


def gather_nd(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """GatherND with one constant index per row of the input: like Gather along axis 0."""
    data, indices = node.inputs
    dims = dims_of(data)
    shape = None if indices is None else dims_of(indices)
    known = integers_of(indices)
    if data is None or dims is None or not dims or known is None or shape is None:
        return None
    size = dims[0]
    if node.attributes.get_int("batch_dims", 0) or shape[1:] != (1,) or not isinstance(size, int):
        return None
    numbers = [number + size if number < 0 else number for number in known]
    if region[0] is not None:
        numbers = [numbers[index] for index in region[0].picked]
    picked = progression(numbers)
    return None if picked is None else first_of(data, (part_of(picked, size), *region[1:]))


def sequence_at(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """SequenceAt: an operand of SequenceConstruct, or a range of the input of SplitToSequence."""
    sequence = node.inputs[0]
    producer = None if sequence is None else sequence.producer()
    index = scalar_of(node.inputs[1])
    if producer is None or index is None or producer.domain not in {"", "ai.onnx"}:
        return None
    if producer.op_type == "SequenceConstruct":
        element = producer.inputs[index]
        return None if element is None else first_of(element, region)
    return _of_split(producer, index, region) if producer.op_type == "SplitToSequence" else None


def _of_split(node: ir.Node, index: int, region: Region) -> Pull | None:
    """Return the pull of one element of the result of a SplitToSequence."""
    data = node.inputs[0]
    dims = dims_of(data)
    axis = 0 if dims is None else axis_of(node, len(dims))
    size = None if dims is None else dims[axis]
    if data is None or not isinstance(size, int):
        return None
    chunks = node.inputs[1] if len(node.inputs) > 1 else None
    if chunks is None and not node.attributes.get_int("keepdims", 1):
        part = part_of(range(index % size, index % size + 1), size)
        return _squeezed(data, (*region[:axis], part, *region[axis:]), axis)
    sizes = [1] * size if chunks is None else integers_of(chunks)
    if sizes is None or region[axis] is not None:
        return None
    if chunks is not None and dims_of(chunks) == ():
        sizes = [min(sizes[0], size - start) for start in range(0, size, sizes[0])]
    ends = list(accumulate(sizes))
    picked = range(ends[index] - sizes[index], ends[index])
    return first_of(data, (*region[:axis], part_of(picked, size), *region[axis + 1 :]))


def _squeezed(data: ir.Value, source: Region, axis: int) -> Pull:
    """Return the pull of a region whose axis `axis` has size 1 and is removed."""

    def build(rewriter: Rewriter, to: BuildTarget, values: Sequence[ir.Value]) -> ir.Value:
        axes = rewriter.integers([axis], name=f"{to.value.name}.axes")
        return rewriter.emit("Squeeze", [values[0], axes], like=to.value, shape=to.shape)

    return Pull((Operand(data, source),), build)


def _split_sizes(node: ir.Node, size: int) -> list[int] | None:
    """Return the sizes of the outputs of a Split along an axis of a known size."""
    count = len(node.outputs)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return integers_of(node.inputs[1])
    chunk = -(-size // count)
    return [min(chunk, size - chunk * index) for index in range(count)]


def _sliced_parts(node: ir.Node, dims: Sequence[Dim]) -> dict[int, AxisPart | None] | None:
    """Return axis -> part of a Slice, or None if one is not known."""
    starts, ends = integers_of(node.inputs[1]), integers_of(node.inputs[2])
    axes = axes_of(node, len(dims), place=3)
    has_steps = len(node.inputs) > 4 and node.inputs[4] is not None  # noqa: PLR2004
    steps = integers_of(node.inputs[4]) if has_steps else None
    if has_steps and steps is None:
        return None
    if starts is None or ends is None:
        axis = 0 if axes is None else axes[0]
        is_one_axis = (axes is None or len(axes) == 1) and steps in (None, [1])
        return _sliced_blocks(node, axis, dims[axis]) if is_one_axis else None
    found: dict[int, AxisPart | None] = {}
    for index, axis in enumerate(axes if axes is not None else range(len(starts))):
        size, step = dims[axis], 1 if steps is None else steps[index]
        if isinstance(size, int):
            picked = range(*slice(starts[index], _end(ends[index], step, size), step).indices(size))
            if not picked:
                return None
            found[axis] = part_of(picked, size)
        elif step > 1 and 0 <= starts[index] < step and ends[index] >= _MIN_OPEN_END:
            found[axis] = AxisPart(range(starts[index], starts[index] + 1), step, outer=(None,))
        elif step == 1 and starts[index] == 0 and ends[index] >= _MIN_OPEN_END:
            found[axis] = None
        else:
            return None
    return found


def _sliced_blocks(node: ir.Node, axis: int, size: Dim) -> dict[int, AxisPart | None] | None:
    """Return axis -> blocks, if a Slice from a * n to b * n of an axis of the size K * n returns some of K blocks."""
    if isinstance(size, int):
        return None
    count, names = factors_of(size)
    if count == 1 or len(names) != 1:
        return None
    starts, ends = (linear_of(value, names[0]) for value in node.inputs[1:3])
    if starts is None or ends is None or len(starts) != 1 or len(ends) != 1:
        return None
    (start,), (end,) = starts, ends
    if not end.factor and end.offset >= _MIN_OPEN_END:
        end = Linear(count, 0)
    start, end = (Linear(at.factor + count if at.factor < 0 else at.factor, at.offset) for at in (start, end))
    if start.offset or end.offset or not 0 <= start.factor < end.factor <= count:
        return None
    picked = range(start.factor, end.factor)
    return {axis: None if len(picked) == count else AxisPart(picked, count, inner=names)}


def _end(end: int, step: int, size: int) -> int | None:
    """Return the end for Python's slice: None if a negative step reaches the first element."""
    return None if step < 0 and end < -size else end

"""Rules for writes into a tensor: the written elements, or those that are left."""

from collections.abc import Sequence

import onnx_ir as ir

from edgeexit.compiler.unpack.constants import axis_of, integers_of, scalar_of
from edgeexit.compiler.unpack.pull import Operand, Pull, join_along
from edgeexit.compiler.unpack.regions import Dim, Region, dims_of, part_of, progression


def scatter_elements(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """ScatterElements that writes one slice, as `select_scatter` is exported: the slice, or the other elements."""
    data, indices, updates = node.inputs
    dims, written = dims_of(data), dims_of(updates)
    if data is None or indices is None or updates is None or dims is None or written is None:
        return None
    axis = axis_of(node, len(dims), default=0)
    index = _uniform(indices)
    size = dims[axis]
    if index is None or not isinstance(size, int) or node.attributes.get_string("reduction", "none") != "none":
        return None
    same = all(
        one == other and one is not None
        for one, other in zip(_without(dims, axis), _without(written, axis), strict=False)
    )
    if not same or written[axis] != 1:
        return None
    return _overwritten(data, updates, region, (axis, range(index % size, index % size + 1), size))


def scatter_nd(node: ir.Node, _output: int, region: Region) -> Pull | None:
    """ScatterND that writes some full rows: the rows, or the other elements."""
    data, indices, updates = node.inputs
    dims = dims_of(data)
    if data is None or indices is None or updates is None or not dims or not isinstance(dims[0], int):
        return None
    known, shape = integers_of(indices), dims_of(indices)
    if known is None or shape is None or shape[1:] != (1,):
        return None
    if node.attributes.get_string("reduction", "none") != "none":
        return None
    written = progression([number % dims[0] for number in known])
    if written is None or written.step != 1:
        return None
    return _overwritten(data, updates, region, (0, written, dims[0]))


def _overwritten(data: ir.Value, updates: ir.Value, region: Region, write: tuple[int, range, int]) -> Pull | None:
    """Return the pull of a tensor with the range `write` (axis, range, size) of one axis replaced by `updates`."""
    axis, written, size = write
    part = region[axis]
    if part is not None and not part.is_plain:
        return None
    picked = range(size) if part is None else part.picked
    if picked.step < 1:
        return None
    pieces = []
    for source, inside in (
        (data, [index for index in picked if index < written.start]),
        (updates, [index - written.start for index in picked if index in written]),
        (data, [index for index in picked if index >= written.stop]),
    ):
        found = progression(inside)
        if found is not None:
            own = part_of(found, len(written) if source is updates else size)
            pieces.append(Operand(source, (*region[:axis], own, *region[axis + 1 :])))
    return Pull(tuple(pieces), join_along(axis))


def _uniform(indices: ir.Value) -> int | None:
    """Return the number that all elements of an index tensor have, or None."""
    node = indices.producer()
    if node is not None and node.op_type == "Expand":
        return None if node.inputs[0] is None else scalar_of(node.inputs[0])
    known = integers_of(indices)
    return known[0] if known and len(set(known)) == 1 else None


def _without(dims: Sequence[Dim], axis: int) -> list[Dim]:
    return [*dims[:axis], *dims[axis + 1 :]]

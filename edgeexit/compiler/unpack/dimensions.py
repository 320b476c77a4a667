"""Names the dimensions that shape inference leaves unknown, so that equal ones are recognised."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import onnx_ir as ir

from edgeexit.compiler.graph import all_values
from edgeexit.compiler.unpack.constants import axis_of
from edgeexit.compiler.unpack.regions import (
    INFERRED,
    AxisPart,
    Dim,
    Dims,
    at_axis,
    dims_of,
    dims_of_region,
    is_full,
    multiple_of,
)
from edgeexit.compiler.unpack.reshapes import flattened_dims
from edgeexit.compiler.unpack.rules import pull_of

_PROBE: Final = AxisPart(range(1), 2, outer=(INFERRED,))
"""A part of an axis; it stays the same through operators only if the axis does."""


@contextmanager
def named_dimensions(graph: ir.Graph) -> Iterator[None]:
    """Give the unknown dimensions of a graph names while the context is open; equal names are equal sizes."""
    original: list[tuple[ir.Value, ir.Shape]] = []
    multiples: dict[str, str] = {}
    for node in graph:
        for value in node.outputs:
            dims = dims_of(value)
            if value.shape is None or dims is None:
                continue
            named = _named(value, len(original)) if None in dims else list(dims)
            multiples |= _multiples(node, tuple(named))
            named = [multiples.get(dim, dim) if isinstance(dim, str) else dim for dim in named]
            if named != list(dims):
                original.append((value, value.shape))
                value.shape = ir.Shape(named)
    try:
        yield
    finally:
        for value, shape in original:
            value.shape = shape
        for value in all_values(graph):
            if value.shape is not None and any(str(dim).startswith(INFERRED) for dim in dims_of(value) or ()):
                value.shape = ir.Shape([None if str(dim).startswith(INFERRED) else dim for dim in dims_of(value) or ()])


def _named(value: ir.Value, number: int) -> list[Dim]:
    """Return the dimensions of a value, with a name or size for each unknown one."""
    dims = dims_of(value) or ()
    node = value.producer()
    if node is not None and node.op_type in {"Slice", "Split"}:
        pull = pull_of(value, (None,) * len(dims))
        for source, region in () if pull is None else pull.operands[:1]:
            if region is not None and not is_full(region):
                found = dims_of_region(dims_of(source) or (), region)
                dims = tuple(other if dim is None else dim for dim, other in zip(dims, found, strict=True))
    return [
        _origin(value, axis) or f"{INFERRED}{number}.{axis}" if dim is None else dim for axis, dim in enumerate(dims)
    ]


def _origin(value: ir.Value, axis: int) -> Dim:
    """Return the dimension of the operand axis that an axis of a value is, or None."""
    pull = pull_of(value, at_axis(len(dims_of(value) or ()), axis, _PROBE))
    found: set[Dim] = set()
    for source, region in () if pull is None else pull.operands:
        dims = dims_of(source) or ()
        parts = [(dim, part) for dim, part in zip(dims, region or (), strict=False) if part is not None]
        if any(part != _PROBE for _, part in parts):
            return None
        found.update(dim for dim, _ in parts)
    return found.pop() if len(found) == 1 else None


def _multiples(node: ir.Node, dims: Dims) -> dict[str, str]:
    """Return dimension -> its name as a multiple, for the axis that a Concat joins or a Reshape flattens."""
    shapes = [dims_of(value) for value in node.inputs]
    if node.op_type == "Concat":
        axis = axis_of(node, len(dims))
        sizes = {None if shape is None else shape[axis] for shape in shapes}
        joined = {axis: (len(shapes), *sizes)} if len(sizes) == 1 else {}
    elif node.op_type in {"Flatten", "Reshape"} and shapes[0] is not None:
        joined = flattened_dims(shapes[0], dims)
    else:
        return {}
    products = {dims[axis]: multiple_of(flat) for axis, flat in joined.items()}
    return {dim: name for dim, name in products.items() if isinstance(dim, str) and name is not None}

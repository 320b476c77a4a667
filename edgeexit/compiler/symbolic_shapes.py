"""Finds the symbolic dimensions of tensors, and makes Shape nodes read them from any tensor that has them.

So no large tensor is carried only for its shape.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.graph import BATCH, add_initializer, unique_name

_INT64 = ir.TensorType(ir.DataType.INT64)


def symbolic_dims_of(shape: Iterable[int | str | ir.SymbolicDim]) -> frozenset[str]:
    """Return the names of the symbolic dimensions in a shape; dimensions without name or size are omitted."""
    names = (size.value if isinstance(size, ir.SymbolicDim) else size for size in shape)
    return frozenset(name for name in names if isinstance(name, str))


def input_symbolic_dims(graph: ir.Graph) -> frozenset[str]:
    """Return the names of the symbolic dimensions of a model's inputs."""
    return frozenset().union(*(symbolic_dims_of(value.shape or ()) for value in graph.inputs))


def static_or_symbolic(seen: int, inferred: int | ir.SymbolicDim, input_dims: Collection[str]) -> int | str:
    """Return a dimension's size if it is the same in every run, else its symbolic name, which may be empty.

    Args:
        seen: size in one run.
        inferred: result of ONNX shape inference.
        input_dims: `input_symbolic_dims` of the model.

    """
    if isinstance(inferred, int):
        return inferred
    if set(input_dims) == {BATCH}:  # only the batch varies
        return seen
    return str(inferred.value or "")


def shape_node_dims(node: ir.Node, input_dims: Collection[str]) -> frozenset[str] | None:
    """Return the symbolic dimensions that a Shape node returns.

    Return None if the node is not a Shape node, or if it returns a dimension that is neither static nor in
    `input_dims`.
    """
    sizes = _sizes(node)
    dims = None if sizes is None else symbolic_dims_of(sizes)
    if sizes is None or dims is None or not dims.issubset(input_dims):
        return None
    unknown = [size for size in sizes if not isinstance(size, int) and size.value not in dims]
    return None if unknown else dims


def replace_shape_node(graph: ir.Graph, node: ir.Node, sources: Iterable[ir.Value], taken: set[str]) -> None:
    """Replace a Shape node by nodes that read its symbolic dimensions from `sources` and concatenate them.

    `sources` must have all symbolic dimensions that the node returns. `taken` are the names in the graph; the names of
    the new nodes are added.
    """
    found: dict[str, tuple[ir.Value, int]] = {}
    for value in sources:
        for axis, size in enumerate(value.shape or ()):
            for name in symbolic_dims_of([size]):
                found.setdefault(name, (value, axis))
    sizes = [size if isinstance(size, int) else found[str(size.value)] for size in _sizes(node) or ()]
    result, nodes = size_tensor(graph, sizes, str(node.outputs[0].name), taken)
    graph.insert_before(node, nodes)
    node.outputs[0].replace_all_uses_with(result)
    graph.remove(node, safe=True)


def size_tensor(
    graph: ir.Graph, sizes: Sequence[int | tuple[ir.Value, int]], name: str, taken: set[str]
) -> tuple[ir.Value, list[ir.Node]]:
    """Return an int64 tensor of sizes, and the nodes that compute it, which the caller inserts.

    Each size is a number, or a value and one of its axes. Numbers become initializers of the graph. New names start
    with `name`, and are added to `taken`, which are the names in the graph.
    """
    nodes: list[ir.Node] = []
    pieces: list[ir.Value] = []
    for number, (is_static, group) in enumerate(groupby(sizes, key=lambda size: isinstance(size, int))):
        piece_name = unique_name(f"{name}.{number}", taken)
        if is_static:
            tensor = ir.Tensor(np.array(list(group), dtype=np.int64), name=piece_name)
            pieces.append(add_initializer(graph, tensor))
            continue
        for source, axis in (size for size in group if not isinstance(size, int)):
            one = unique_name(f"{piece_name}.{axis}", taken)
            nodes.append(ir.node("Shape", [source], {"start": axis, "end": axis + 1}, name=one))
            pieces.append(_describe(nodes[-1].outputs[0], one, 1))
    if len(pieces) > 1:
        joined = unique_name(f"{name}.sizes", taken)
        nodes.append(ir.node("Concat", pieces, {"axis": 0}, name=joined))
        pieces = [_describe(nodes[-1].outputs[0], joined, len(sizes))]
    return pieces[0], nodes


def _describe(value: ir.Value, name: str, length: int) -> ir.Value:
    value.name, value.type, value.shape = name, _INT64, ir.Shape([length])
    return value


def _sizes(node: ir.Node) -> list[int | ir.SymbolicDim] | None:
    """Return the dimensions that a Shape node returns, or None if they are unknown or it is another node."""
    data = node.inputs[0] if node.op_type == "Shape" and node.domain in {"", "ai.onnx"} else None
    if data is None or data.shape is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(data.shape))
    return list(data.shape)[start:end] or None

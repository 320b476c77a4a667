"""Keeps big tensors from crossing a cut for the sake of their shape."""

from collections.abc import Collection
from itertools import groupby

import numpy as np
import onnx_ir as ir

_BATCH_ONLY = (0, 1)


def root_shapes(graph: ir.Graph, values: Collection[str]) -> bool:
    """Let the Shape nodes that read `values` read the model's inputs instead; return whether anything changed.

    A dimension is either a number or a name that an input has too, so the shape of a deep tensor can be put together
    from those. A Shape node with a dimension that is neither stays as it is.
    """
    sources: dict[str, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                sources.setdefault(size.value, (value, axis))
    changed = False
    for node in list(graph):
        data = node.inputs[0] if node.op_type == "Shape" else None
        if data is not None and data.name in values and data.shape is not None:
            sizes = list(data.shape)[slice(*_range(node, len(data.shape)))]
            if sizes and all(isinstance(size, int) or size.value in sources for size in sizes):
                _replace(graph, node, sizes, sources)
                changed = True
    return changed


def read_batch_from(graph: ir.Graph, carry: ir.Value) -> None:
    """Drop inputs that are read for their batch size alone; `carry` has the same."""
    for value in list(graph.inputs):
        nodes = [use.node for use in value.uses()]
        if value is not carry and nodes and all(_reads_batch(node, value) for node in nodes):
            for node in nodes:
                node.replace_input_with(0, carry)
            graph.inputs.remove(value)


def _reads_batch(node: ir.Node, value: ir.Value) -> bool:
    return node.op_type == "Shape" and value.shape is not None and _range(node, len(value.shape)) == _BATCH_ONLY


def _range(node: ir.Node, rank: int) -> tuple[int, int]:
    """Return first and last dimension of a Shape node, counted from the front."""
    start, end, _ = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)).indices(rank)
    return start, end


def _replace(
    graph: ir.Graph, node: ir.Node, sizes: list[int | ir.SymbolicDim], sources: dict[str, tuple[ir.Value, int]]
) -> None:
    result = node.outputs[0]
    pieces: list[ir.Value] = []
    for number, (is_known, group) in enumerate(groupby(sizes, key=lambda size: isinstance(size, int))):
        name = f"{result.name}.{number}"
        if is_known:
            tensor = ir.Tensor(np.array(list(group), dtype=np.int64), name=name)
            known = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
            graph.register_initializer(known)
            pieces.append(known)
            continue
        for size in group:
            source, axis = sources[str(getattr(size, "value", size))]
            shape = ir.node("Shape", [source], {"start": axis, "end": axis + 1}, name=f"{name}.{axis}")
            shape.outputs[0].name = f"{name}.{axis}"
            shape.outputs[0].type, shape.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
            graph.insert_before(node, shape)
            pieces.append(shape.outputs[0])
    concat = ir.node("Concat", pieces, {"axis": 0}, name=f"{result.name}.sizes")
    concat.outputs[0].type, concat.outputs[0].shape = result.type, result.shape
    graph.insert_before(node, concat)
    result.replace_all_uses_with(concat.outputs[0])
    graph.remove(node, safe=True)
    concat.outputs[0].name = result.name

"""Infers the shapes of a graph without symbolic dimensions, and evaluates the values that depend on constants only.

ONNX shape inference stops where a shape is computed with operators that it does not evaluate, such as the paddings and
sizes of old exporters. Here the reference evaluator of ONNX evaluates them.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgeexit.compiler.graph import RANDOM, add_initializer, opset_of, subgraphs_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.onnx_file.batch_places import sizes_of

_MAX_ELEMENTS: Final = 1 << 16
"""Larger constants are not evaluated."""
_MAX_SIZES: Final = 64
"""Values with more elements are not the sizes of a tensor."""


def infer_static_shapes(model: ir.Model) -> None:
    """Set the shapes of the main graph's values, in place, and replace nodes that read only constants by constants.

    Constants must be initializers. A shape that depends on the data of an input, or that ONNX cannot infer, stays as it
    is. Nodes that compute with the shape of another value stay, too, because that shape may become dynamic later.
    """
    graph = model.graph
    version = opset_of(model)
    sizes: dict[ir.Value, Any] = {}
    with silence_libraries():
        for node in tuple(graph):
            if node.domain != "" or any(subgraphs_of(node)):
                continue
            constants = [_constant(value) for value in node.inputs]
            arrays = [sizes.get(value) if value in sizes else _constant(value) for value in node.inputs]
            given = [value is None or array is not None for value, array in zip(node.inputs, arrays, strict=True)]
            if node.op_type == "Shape" and (shape := sizes_of(node.inputs[0])) is not None:
                results: Sequence[Any] = [np.array(shape, dtype=np.int64)[_shape_slice(node)]]
            elif all(given) and node.inputs and node.op_type not in RANDOM and not _is_large(node, arrays):
                results = _evaluate(node, arrays, version)
            else:
                results = ()
            if len(results) != len(node.outputs):
                _infer(node, arrays, version)
            elif all(value is None or array is not None for value, array in zip(node.inputs, constants, strict=True)):
                _replace(graph, node, results)
            else:
                for value, result in zip(node.outputs, results, strict=True):
                    value.type = ir.TensorType(ir.DataType.from_numpy(result.dtype))
                    value.shape = ir.Shape(result.shape)
                    if result.size <= _MAX_SIZES:
                        sizes[value] = result


def _constant(value: ir.Value | None) -> Any:
    """Return the elements of a small initializer, or None."""
    tensor = value.const_value if value is not None and value.is_initializer() else None
    return tensor.numpy() if tensor is not None and tensor.size <= _MAX_ELEMENTS else None


def _shape_slice(node: ir.Node) -> slice:
    return slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", None))


def _is_large(node: ir.Node, arrays: Sequence[Any]) -> bool:
    """Return True if the output of a node has, or may have, too many elements."""
    if node.op_type in {"ConstantOfShape", "Expand"}:
        return bool(np.prod(arrays[-1]) > _MAX_ELEMENTS)
    if node.op_type == "Tile":
        return bool(np.prod(arrays[-1]) * arrays[0].size > _MAX_ELEMENTS)
    return any(prod(sizes_of(value) or [0]) > _MAX_ELEMENTS for value in node.outputs)


def _evaluate(node: ir.Node, arrays: Sequence[Any], version: int) -> list[Any]:
    """Return the outputs of a node as arrays, or nothing if it cannot be evaluated."""
    feeds = {str(v.name): array for v, array in zip(node.inputs, arrays, strict=True) if v is not None}
    try:
        results = ReferenceEvaluator(ir.to_proto(node), opsets={"": version}).run(None, feeds)
    except Exception:  # noqa: BLE001 - the evaluator raises many classes; the node is then not evaluated
        return []
    return (
        [np.asarray(result) for result in results]
        if all(isinstance(r, np.ndarray | np.generic) for r in results)
        else []
    )


def _infer(node: ir.Node, arrays: Sequence[Any], version: int) -> None:
    """Set the types and shapes of a node's outputs from those of its inputs."""
    try:
        types = {
            str(value.name): ir.to_proto(ir.Value(name=value.name, type=value.type, shape=value.shape)).type
            for value in node.inputs
            if value is not None
        }
        data = {
            str(value.name): onnx.numpy_helper.from_array(array)
            for value, array in zip(node.inputs, arrays, strict=True)
            if value is not None and array is not None
        }
        schema = onnx.defs.get_schema(node.op_type, version, "")
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, ir.to_proto(node), types, data, opset_imports=[onnx.helper.make_opsetid("", version)]
        )
    except Exception:  # noqa: BLE001 - onnx raises unrelated classes; the shape is then unknown
        return
    for value in node.outputs:
        if value.name in inferred and inferred[value.name].HasField("tensor_type"):
            found: Any = ir.from_proto(onnx.ValueInfoProto(name=value.name, type=inferred[value.name]))
            value.type, value.shape = found.type, found.shape


def _replace(graph: ir.Graph, node: ir.Node, results: Sequence[Any]) -> None:
    """Replace the outputs of a node by initializers of the same names."""
    if any(value.is_graph_output() for value in node.outputs):
        return
    for value, result in zip(node.outputs, results, strict=True):
        name = str(value.name)
        value.name = f"{name}.folded"
        value.replace_all_uses_with(add_initializer(graph, ir.Tensor(result, name=name)))
    graph.remove(node, safe=True)

"""Replaces bfloat16 and float64 in a graph by float32, because ONNX Runtime lacks many operators in these types."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.graph import all_values, names_in, unique_name

_TYPE_ATTRIBUTES: Final = (
    "to", "dtype", "output_dtype", "output_datatype", "precision", "softmax_precision", "stash_type",
)  # fmt: skip
"""Integer attributes that are a type of elements."""
_WEIGHT_RANK: Final = 2
"""Weights of matmuls and convs have at least two dimensions; a model with a few float64 numbers runs as it is."""
_NAMES: Final = {ir.DataType.BFLOAT16: "bfloat16", ir.DataType.DOUBLE: "float64"}


class ReplacedFloats(NamedTuple):
    """A type of floats that was replaced by float32."""

    type: str
    """bfloat16 or float64."""
    tensor: str
    """The first tensor of this type."""


def widen(model: ir.Model) -> ReplacedFloats | None:
    """Replace bfloat16 or float64 by float32, in place; return None if the model computes in neither.

    A float64 input keeps its type, and a Cast follows it; a bfloat16 input becomes float32, because numpy has no
    bfloat16. A model with float64 numbers, but without float64 weights, is not changed.
    """
    found = _first_of(model)
    if found is None:
        return None
    name, dtype = found
    for graph in (*model.graphs(), *model.functions.values()):
        for node in graph:
            _widen_attributes(node, dtype)
    inputs = {value for value in model.graph.inputs if dtype == ir.DataType.DOUBLE and not value.is_initializer()}
    for value in (value for graph in model.graphs() for value in all_values(graph)):
        if value.const_value is not None and value.const_value.dtype == dtype:
            value.const_value = _to_float32(value.const_value)
        if value.dtype == dtype and value not in inputs:
            value.dtype = ir.DataType.FLOAT
    taken = names_in(model.graph)
    for value in model.graph.inputs:
        if value.dtype == dtype:
            _cast(model.graph, value, taken)
    return ReplacedFloats(_NAMES[dtype], name)


def _first_of(model: ir.Model) -> tuple[str, ir.DataType] | None:
    """Return the first tensor that makes a model compute in bfloat16 or float64, and its type."""
    for graph in model.graphs():
        tensors = [(str(name), value.const_value) for name, value in graph.initializers.items()]
        tensors += [(str(node.outputs[0].name), tensor) for node in graph for _, tensor in _tensors(node)]
        for name, tensor in tensors:
            if tensor is not None and _counts(tensor):
                return name, tensor.dtype
    read = (value for graph in model.graphs() for node in graph for value in node.inputs if node.op_type != "Cast")
    values = (value for value in (*model.graph.inputs, *read) if value is not None)
    return next(((str(value.name), value.dtype) for value in values if value.dtype == ir.DataType.BFLOAT16), None)


def _counts(tensor: ir.TensorProtocol) -> bool:
    is_weight = len(tensor.shape) >= _WEIGHT_RANK
    return tensor.dtype == ir.DataType.BFLOAT16 or (tensor.dtype == ir.DataType.DOUBLE and is_weight)


def _tensors(node: ir.Node) -> Iterator[tuple[ir.Attr, ir.TensorProtocol]]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
            yield attribute, attribute.as_tensor()


def _widen_attributes(node: ir.Node, dtype: ir.DataType) -> None:
    for attribute, tensor in list(_tensors(node)):
        if tensor.dtype == dtype:
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _to_float32(tensor))
    for name in _TYPE_ATTRIBUTES:
        found = node.attributes.get(name)
        is_type = found is not None and not found.is_ref() and found.type == ir.AttributeType.INT
        if is_type and node.attributes.get_int(name) == dtype.value:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)


def _to_float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Convert a tensor; finite numbers beyond the range of float32, as in masks, become the largest of float32."""
    wide = tensor.numpy()
    limits = np.finfo(np.float32)
    array = np.array(wide, dtype=np.float64)
    array[np.isfinite(array)] = array[np.isfinite(array)].clip(limits.min, limits.max)
    return ir.Tensor(array.astype(np.float32), name=tensor.name)


def _cast(graph: ir.Graph, value: ir.Value, taken: set[str]) -> None:
    """Insert a Cast to float32 behind an input."""
    name = unique_name(f"{value.name}.float32", taken)
    node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, name=name)
    output = node.outputs[0]
    output.name, output.dtype, output.shape = name, ir.DataType.FLOAT, value.shape
    value.replace_all_uses_with(output)
    node.replace_input_with(0, value)
    for index, exit_value in enumerate(graph.outputs):
        if exit_value is value:
            graph.outputs[index] = output
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)

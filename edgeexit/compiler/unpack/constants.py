"""Reads the integers that operators take as constants: axes, indices, sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnx_ir as ir

from edgeexit.compiler.unpack.regions import dims_of

_EVALUATED = {"Add", "Cast", "Concat", "Div", "Gather", "Mul", "Range", "Slice", "Squeeze", "Sub", "Unsqueeze"}
_MAX_DEPTH = 16
"""Longest chain of nodes that is evaluated; exporters compute sizes and indices with a few nodes."""
_MAX_ELEMENTS = 1 << 16
"""Larger constants are weights, not sizes or indices."""


def integers_of(value: ir.Value | None) -> list[int] | None:
    """Return the elements of an integer tensor, flattened, or None if they are not constant.

    Sizes that nodes read from static dimensions count as constants.
    """
    array = None if value is None else _evaluate(value, _MAX_DEPTH)
    return None if array is None or array.dtype.kind not in "iu" else [int(number) for number in array.reshape(-1)]


def scalar_of(value: ir.Value | None) -> int | None:
    """Return the only element of a constant integer tensor, or None."""
    known = integers_of(value)
    return known[0] if known is not None and len(known) == 1 else None


def axis_of(node: ir.Node, rank: int, *, name: str = "axis", default: int = 0) -> int:
    """Return an axis attribute as a number from 0."""
    return node.attributes.get_int(name, default) % rank


def axes_of(node: ir.Node, rank: int, *, place: int = 1) -> list[int] | None:
    """Return the axes of a node, from an attribute or from the input at `place`, or None if they are unknown."""
    attribute = node.attributes.get("axes")
    given = node.inputs[place] if place < len(node.inputs) else None
    axes = list(attribute.as_ints()) if attribute is not None else integers_of(given)
    return None if axes is None else [axis % rank for axis in axes]


def _evaluate(value: ir.Value, depth: int) -> npt.NDArray[Any] | None:
    """Return the value of a small constant, or of nodes that compute it from static dimensions."""
    if value.const_value is not None:
        small = value.const_value.size <= _MAX_ELEMENTS and value.const_value.dtype.numpy().kind in "iufb"
        return value.const_value.numpy() if small else None
    node = value.producer()
    if node is None or not depth or node.domain not in {"", "ai.onnx"}:
        return None
    if node.op_type == "Shape":
        return _static_shape(node)
    sizes = _sizes_of_axes(node) if node.op_type == "Gather" else None
    if sizes is not None or node.op_type not in _EVALUATED:
        return sizes
    operands = [None if operand is None else _evaluate(operand, depth - 1) for operand in node.inputs]
    return None if any(array is None for array in operands) else _compute(node, operands)


def _compute(node: ir.Node, operands: Sequence[Any]) -> npt.NDArray[Any] | None:
    """Return the result of a node, or None if it is large."""
    names = [f"input{index}" for index in range(len(operands))]
    proto: onnx.NodeProto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.append("result")
    (result,) = onnx.reference.ReferenceEvaluator(proto).run(None, dict(zip(names, operands, strict=True)))
    array = np.asarray(result)
    return array if array.size <= _MAX_ELEMENTS else None


def _static_shape(node: ir.Node) -> npt.NDArray[np.int64] | None:
    dims = None if node.inputs[0] is None else dims_of(node.inputs[0])
    if dims is None:
        return None
    end = node.attributes.get_int("end", len(dims))
    known = dims[node.attributes.get_int("start", 0) : end]
    sizes = [size for size in known if isinstance(size, int)]
    return np.array(sizes, dtype=np.int64) if len(sizes) == len(known) else None


def _sizes_of_axes(node: ir.Node) -> npt.NDArray[Any] | None:
    """Return the static sizes that a Gather reads from a shape that may have other, unknown dimensions."""
    shape = None if node.inputs[0] is None else node.inputs[0].producer()
    if shape is None or shape.op_type != "Shape" or shape.attributes.get_int("start"):
        return None
    dims, indices = dims_of(shape.inputs[0]), node.inputs[1]
    if dims is None or indices is None or indices.const_value is None:
        return None
    array = indices.const_value.numpy()
    sizes = [dims[int(index)] for index in array.reshape(-1)]
    known = [size for size in sizes if isinstance(size, int)]
    return np.array(known, dtype=np.int64).reshape(array.shape) if len(known) == len(sizes) else None

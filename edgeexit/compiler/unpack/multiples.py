"""Evaluates indices that are linear functions of a symbolic dimension, as in a slice from batch to 2 * batch."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import onnx_ir as ir

from edgeexit.compiler.unpack.constants import integers_of
from edgeexit.compiler.unpack.regions import Dim, dims_of, factors_of

_MAX_DEPTH: Final = 16
"""Longest chain of nodes that is evaluated."""


class Linear(NamedTuple):
    """The number `factor` * dimension + `offset`."""

    factor: int
    offset: int


def linear_of(value: ir.Value | None, name: str) -> list[Linear] | None:
    """Return the elements of an integer tensor as linear functions of the dimension `name`, or None."""
    return None if value is None else _evaluate(value, name, _MAX_DEPTH)


def _evaluate(value: ir.Value, name: str, depth: int) -> list[Linear] | None:
    """Return the elements of a value that at most `depth` nodes compute from constants and shapes, or None."""
    known = integers_of(value)
    if known is not None:
        return [Linear(0, number) for number in known]
    node = value.producer()
    if node is None or not depth:
        return None
    if node.op_type in {"Gather", "Shape"}:
        return _sizes(node, name) if node.op_type == "Shape" else _gathered(node, name, depth)
    operands = [None if operand is None else _evaluate(operand, name, depth - 1) for operand in node.inputs]
    if node.op_type in {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}:
        return operands[0]
    if node.op_type == "Concat":
        return None if None in operands else [number for operand in operands for number in operand or ()]
    numbers = [operand[0] for operand in operands if operand is not None and len(operand) == 1]
    result = _computed(node.op_type, numbers) if len(numbers) == len(operands) else None
    return None if result is None else [result]


def _sizes(node: ir.Node, name: str) -> list[Linear] | None:
    """Return the sizes that a Shape node returns, or None if one is not linear."""
    dims = dims_of(node.inputs[0])
    if dims is None:
        return None
    end = node.attributes.get_int("end", len(dims))
    found = [_size(dim, name) for dim in dims[node.attributes.get_int("start", 0) : end]]
    known = [size for size in found if size is not None]
    return known if len(known) == len(found) else None


def _size(dim: Dim, name: str) -> Linear | None:
    if isinstance(dim, int):
        return Linear(0, dim)
    number, names = factors_of(dim)
    return Linear(number, 0) if names == (name,) else None


def _gathered(node: ir.Node, name: str, depth: int) -> list[Linear] | None:
    """Return elements of a tensor; the other elements may be unknown if it is a shape."""
    indices = integers_of(node.inputs[1])
    shape = node.inputs[0].producer() if node.inputs[0] is not None else None
    if indices is None or node.inputs[0] is None:
        return None
    if shape is not None and shape.op_type == "Shape" and not shape.attributes.get_int("start"):
        dims = dims_of(shape.inputs[0])
        found = [None if dims is None else _size(dims[index], name) for index in indices]
        known = [size for size in found if size is not None]
        return known if len(known) == len(found) else None
    data = _evaluate(node.inputs[0], name, depth - 1)
    return None if data is None else [data[index] for index in indices]


def _computed(op_type: str, numbers: Sequence[Linear]) -> Linear | None:
    """Return the result of an operator on linear functions, or None if it is not linear."""
    one, other = numbers[0], numbers[-1]
    if op_type == "Neg":
        return Linear(-one.factor, -one.offset)
    if op_type in {"Add", "Sub"}:
        sign = 1 if op_type == "Add" else -1
        return Linear(one.factor + sign * other.factor, one.offset + sign * other.offset)
    if op_type == "Mul" and (not one.factor or not other.factor):
        scaled, by = (one, other.offset) if one.factor else (other, one.offset)
        return Linear(scaled.factor * by, scaled.offset * by)
    is_exact = op_type == "Div" and not other.factor and other.offset > 0 and min(one) >= 0
    if is_exact and one.factor % other.offset == 0:
        return Linear(one.factor // other.offset, one.offset // other.offset)
    return None

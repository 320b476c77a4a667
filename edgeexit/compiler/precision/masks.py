"""Finds the numbers that stand for infinity, as in attention masks, and the float16 numbers that replace them."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from enum import Flag, auto
from typing import Final

import numpy as np
import onnx_ir as ir

FP16_MAX: Final = 65504.0
"""The largest finite float16."""
NEAR_FP16_MAX: Final = FP16_MAX / 2
"""A larger number of the model comes near the limit: other samples may have values twice as large."""
MASK_LIMIT: Final = 20_000.0
"""The number that replaces infinity in an additive mask.

It must be small: scores are added to it, and often a second mask (causal and padding). -65504 plus a score of -16 is
already minus infinity in float16, and softmax of a row of minus infinity is NaN. Three of these masks and a score above
-5504 stay finite. It must also be large: the exponential of minus 20000 is 0, and float16 rounds scores below 8 away at
that size, so a row that is masked entirely gives the uniform softmax that it gives in float32.
"""

_FLOATS: Final = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}
_ATTENTION_MASK: Final = 3  # position among the inputs of the operator Attention


class _Use(Flag):
    """What becomes of a value in the nodes that read it, directly or after others have moved or shifted it."""

    NONE = 0
    ADDED = auto()
    SCALED = auto()
    SATURATED = auto()
    ORDERED = auto()
    COMPARED = auto()
    OTHER = auto()


_MOVING: Final = {  # their outputs hold elements of their inputs
    "Cast", "Clip", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "Identity", "Max", "Min", "Pad", "Reshape", "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Trilu", "Unsqueeze", "Where",
}  # fmt: skip
_PASSING: Final = (
    dict.fromkeys(_MOVING, _Use.NONE) | dict.fromkeys({"Div", "Mul", "Neg", "Sub"}, _Use.SCALED) | {"Add": _Use.ADDED}
)
"""Operators that pass a large number on -> what they do to it."""
_SATURATING: Final = {"Exp", "LogSoftmax", "ReduceLogSumExp", "Sigmoid", "Softmax"}
"""A large negative number becomes 0 there, whatever its size."""
_ORDERING: Final = {"ArgMax", "ArgMin", "GlobalMaxPool", "Hardmax", "MaxPool", "ReduceMax", "ReduceMin", "TopK"}
"""Only the order of the numbers counts there."""
_COMPARING: Final = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
_END: Final = (
    dict.fromkeys(_SATURATING, _Use.SATURATED)
    | dict.fromkeys(_ORDERING, _Use.ORDERED)
    | dict.fromkeys(_COMPARING, _Use.COMPARED)
    | dict.fromkeys({"IsInf", "IsNaN", "Shape", "Size"}, _Use.NONE)  # the numbers are finite before and after
)
"""Operators whose results do not depend on the size of a large number -> what they do with it."""


class MaskNumbers:
    """The values of a model that hold a number which stands for infinity, or an infinity."""

    def __init__(self, model: ir.Model) -> None:
        self._uses: dict[ir.Value, _Use] = {}
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        for node in reversed(nodes):
            for value in node.outputs:
                self._find_uses(value)
        for value in (*model.graph.inputs, *model.graph.initializers.values()):
            self._find_uses(value)
        self.inputs: Final[AbstractSet[ir.Value]] = frozenset(
            value
            for value in model.graph.inputs
            if value.dtype == ir.DataType.FLOAT and self._uses[value] == _Use.ADDED | _Use.SATURATED
        )
        """Inputs that are only added to the scores of a softmax: attention masks. They may hold any number."""
        self.values: Final[AbstractSet[ir.Value]] = self._values(nodes)
        """Values that a number which stands for infinity may have made large."""

    def is_mask(self, value: ir.Value) -> bool:
        """Return True if the nodes that read a value read a large number in it as infinity."""
        return self._uses.get(value, _Use.OTHER) & _Use.OTHER == _Use.NONE

    def limit(self, value: ir.Value) -> float:
        """Return the size in float16 of a number in a value that stands for infinity."""
        uses = self._uses.get(value, _Use.OTHER)
        if _Use.OTHER in uses:
            return FP16_MAX
        if _Use.ORDERED in uses:  # it must be beyond all numbers that float16 nodes compute
            return NEAR_FP16_MAX
        return MASK_LIMIT

    def exact_nodes(self) -> set[ir.Node]:
        """Return the nodes that must see the number itself: those on a path from it to a comparison or an output."""
        found: set[ir.Node] = set()
        pending = [node for value in self.values for node in value.consumers() if node.op_type in _COMPARING]
        returned = (value.producer() for value in self.values if value.is_graph_output())
        pending += [producer for producer in returned if producer is not None]
        while pending:
            node = pending.pop()
            if node not in found:
                found.add(node)
                producers = [value.producer() for value in node.inputs if value is not None and value in self.values]
                pending += [producer for producer in producers if producer is not None]
        return found

    def _find_uses(self, value: ir.Value) -> None:
        uses = _Use.OTHER if value.is_graph_output() else _Use.NONE
        for node, position in value.uses():
            uses |= self._use(node, position)
        self._uses[value] = uses

    def _use(self, node: ir.Node, position: int) -> _Use:
        """Return what becomes of the input at `position` of a node."""
        operator = node.op_type
        if operator in _END:
            return _END[operator]
        if operator == "Attention" and position == _ATTENTION_MASK:
            return _Use.ADDED | _Use.SATURATED
        if operator == "Cast" and node.outputs[0].dtype not in _FLOATS:
            return _Use.NONE if node.outputs[0].dtype == ir.DataType.BOOL else _Use.OTHER
        if operator not in _PASSING or (operator in {"Clip", "Div"} and position > 0):
            return _Use.OTHER
        use = _PASSING[operator]
        for output in node.outputs:
            use |= self._uses[output]
        return use

    def _values(self, nodes: list[ir.Node]) -> AbstractSet[ir.Value]:
        found: set[ir.Value] = set(self.inputs)
        for node in nodes:
            if node.op_type in _PASSING and (_reads_number(node) or any(value in found for value in node.inputs)):
                found |= set(node.outputs)
        return found


def constants_of(node: ir.Node) -> Iterator[ir.TensorProtocol]:
    """Yield the values of the weights and of the tensor attributes of a node."""
    for value in node.inputs:
        if value is not None and value.is_initializer() and value.const_value is not None:
            yield value.const_value
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.as_tensor()


def large_number(tensor: ir.TensorProtocol | None, *, above: float = FP16_MAX) -> float | None:
    """Return the absolute value above a limit that a float32 tensor contains.

    Return NaN if there are different ones, and None if no finite value is above the limit. A tensor with only one such
    value, as in a mask, uses it in place of infinity.
    """
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return None
    array = np.abs(tensor.numpy())
    large = array[(array > above) & np.isfinite(array)]
    if not large.size:
        return None
    return float(large[0]) if (large == large[0]).all() else float("nan")


def has_infinity(tensor: ir.TensorProtocol) -> bool:
    """Return True if a float32 tensor contains an infinity, which float16 has, too."""
    return tensor.dtype == ir.DataType.FLOAT and bool(np.isinf(tensor.numpy()).any())


def _reads_number(node: ir.Node) -> bool:
    """Return True if a constant of a node uses one number in place of infinity."""
    numbers = (large_number(tensor, above=NEAR_FP16_MAX) for tensor in constants_of(node))
    return any(number is not None and not np.isnan(number) for number in numbers)

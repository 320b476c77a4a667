"""Decides which nodes a later stage may run again, so that their outputs need not be carried."""

import onnx_ir as ir

from edgeexit.compiler.graph import RANDOM, subgraphs_of
from edgeexit.compiler.macs import is_matmul_or_conv
from edgeexit.compiler.splitting.split import RecomputeMode
from edgeexit.compiler.unpack.rules import SELECTORS

_MOVEMENT = {
    "Cast", "CastLike", "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "Pad", "Range", "Reshape", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Tile", "Transpose", "Trilu", "Unsqueeze",
}  # fmt: skip
_SEQUENCES = {"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SplitToSequence"}
_ARITHMETIC = {
    "Abs", "Add", "And", "BatchNormalization", "Ceil", "Clip", "DequantizeLinear", "Div", "Equal", "Floor", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Max", "Min",
    "Mul", "Neg", "Not", "Or", "PRelu", "QuantizeLinear", "Relu", "Round", "Sign", "Sub", "Sum", "ThresholdedRelu",
    "Where", "Xor",
}  # fmt: skip
"""Operators that need only a few instructions per element."""
_INTERPOLATION = {"nearest", "linear"}


def is_random(node: ir.Node) -> bool:
    """Return True if the node, or any node in its subgraphs, is a random generator."""
    return node.op_type in RANDOM or any(is_random(inner) for subgraph in subgraphs_of(node) for inner in subgraph)


def moves_data(node: ir.Node) -> bool:
    """Return True if the node only copies, selects, converts or rearranges elements."""
    return node.domain in {"", "ai.onnx"} and node.op_type in _MOVEMENT | _SEQUENCES


def selects(node: ir.Node) -> bool:
    """Return True if the node returns a part of its input."""
    return node.domain in {"", "ai.onnx"} and node.op_type in SELECTORS


def recompute_mode(node: ir.Node) -> RecomputeMode:
    """Return whether a later stage may run the node again.

    `freely`: data movement and elementwise arithmetic. `never`: random operators, which would give other values, and
    operators with multiply-accumulates, which are expensive. `if needed`: all other operators.
    """
    if is_random(node) or _has_matmul_or_conv(node):
        return "never"
    return "freely" if _is_cheap(node) else "if needed"


def _has_matmul_or_conv(node: ir.Node) -> bool:
    return is_matmul_or_conv(node) or any(
        _has_matmul_or_conv(inner) for subgraph in subgraphs_of(node) for inner in subgraph
    )


def _is_cheap(node: ir.Node) -> bool:
    if node.domain not in {"", "ai.onnx"}:
        return False
    if node.op_type in {"Resize", "Upsample"}:
        return node.attributes.get_string("mode", "nearest") in _INTERPOLATION
    if node.op_type == "BatchNormalization" and node.attributes.get_int("training_mode"):
        return False
    return node.op_type in _MOVEMENT or node.op_type in _ARITHMETIC

"""Says which operators a stage may run again rather than be handed what they made."""

import onnx_ir as ir

from edgeexit.compiler.graph import bodies
from edgeexit.compiler.macs import is_product
from edgeexit.compiler.splitting.split import Again

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_MOVEMENT = {
    "Cast", "CastLike", "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "Pad", "Range", "Reshape", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Tile", "Transpose", "Trilu", "Unsqueeze",
}  # fmt: skip
_ARITHMETIC = {
    "Abs", "Add", "And", "BatchNormalization", "Ceil", "Clip", "DequantizeLinear", "Div", "Equal", "Floor", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Max", "Min",
    "Mul", "Neg", "Not", "Or", "PRelu", "QuantizeLinear", "Relu", "Round", "Sign", "Sub", "Sum", "ThresholdedRelu",
    "Where", "Xor",
}  # fmt: skip
"""A few instructions an element."""
_INTERPOLATION = {"nearest", "linear"}


def is_random(node: ir.Node) -> bool:
    """Say whether a node, or one in its bodies, draws random numbers."""
    return node.op_type in _RANDOM or any(is_random(inner) for body in bodies(node) for inner in body)


def may_run_again(node: ir.Node) -> Again:
    """Say whether more than one stage may run a node.

    `freely`: data movement and plain arithmetic. `never`: what draws random numbers, and products, which cost too much.
    """
    if is_random(node) or _has_product(node):
        return "never"
    return "freely" if _is_cheap(node) else "if needed"


def _has_product(node: ir.Node) -> bool:
    return is_product(node) or any(_has_product(inner) for body in bodies(node) for inner in body)


def _is_cheap(node: ir.Node) -> bool:
    if node.domain not in {"", "ai.onnx"}:
        return False
    if node.op_type in {"Resize", "Upsample"}:
        return node.attributes.get_string("mode", "nearest") in _INTERPOLATION
    if node.op_type == "BatchNormalization" and node.attributes.get_int("training_mode"):
        return False
    return node.op_type in _MOVEMENT or node.op_type in _ARITHMETIC

"""Maps each operator to its rule: which regions of the inputs a region of an output needs."""

from collections.abc import Callable
from typing import Final

import onnx_ir as ir

from edgeexit.compiler.graph import REDUCTIONS
from edgeexit.compiler.unpack import arithmetic, movement, overwriting, products, selection
from edgeexit.compiler.unpack.pull import Pull
from edgeexit.compiler.unpack.regions import Region

Rule = Callable[[ir.Node, int, Region], Pull | None]
"""(node, index of an output, region of this output) -> pull, or None if the node needs its full inputs."""

SELECTORS: Final = {"Gather", "GatherND", "SequenceAt", "Slice", "Split"}
"""Operators that return a part of a tensor."""

_ELEMENTWISE = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor",
    "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal",
    "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
    "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_ELEMENTWISE, arithmetic.elementwise),
    **dict.fromkeys(REDUCTIONS, arithmetic.reduction),
    **dict.fromkeys(("CastLike", "Clip", "Dropout"), arithmetic.first_input),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), arithmetic.quantisation),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "LpNormalization", "Softmax"), arithmetic.along_one_axis),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), arithmetic.from_axis),
    **dict.fromkeys(("ArgMax", "ArgMin"), arithmetic.arg_reduction),
    **dict.fromkeys(("GroupNormalization", "LRN", "ConvTranspose", "DepthToSpace", "SpaceToDepth"),
                    arithmetic.batch_axis_only),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"),
                    arithmetic.per_channel),
    "BatchNormalization": arithmetic.batch_normalisation,
    "Concat": movement.concat,
    "ConstantOfShape": movement.constant_of_shape,
    "Conv": products.convolution,
    "CumSum": arithmetic.cumulative_sum,
    "Einsum": products.einsum,
    "Expand": movement.expand,
    "Flatten": movement.flatten,
    "Gather": selection.gather,
    "GatherND": selection.gather_nd,
    "Gemm": products.gemm,
    "Identity": movement.identity,
    "InstanceNormalization": arithmetic.instance_normalisation,
    "MatMul": products.matmul,
    "MeanVarianceNormalization": arithmetic.over_axes,
    "Pad": movement.pad,
    "Reshape": movement.reshape,
    "Resize": arithmetic.resize,
    "ScatterElements": overwriting.scatter_elements,
    "ScatterND": overwriting.scatter_nd,
    "SequenceAt": selection.sequence_at,
    "Slice": selection.slice_,
    "Split": selection.split,
    "Squeeze": movement.squeeze,
    "Tile": movement.tile,
    "Transpose": movement.transpose,
    "Trilu": arithmetic.trilu,
    "Unsqueeze": movement.unsqueeze,
}  # fmt: skip


def pull_of(value: ir.Value, region: Region) -> Pull | None:
    """Return what a region of a value needs, or None if only the full value can be computed."""
    node = value.producer()
    if node is None or node.domain not in {"", "ai.onnx"}:
        return None
    rule = _RULES.get(node.op_type)
    try:
        return None if rule is None else rule(node, node.outputs.index(value), region)
    except (IndexError, ValueError):  # a file may declare shapes that contradict its operators
        return None

"""Chooses the nodes that stay in float32 when a model is made float16: those that need its range or exactness."""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from edgeexit.compiler.graph import bodies

HALF_MOST: Final = 65504.0
"""The largest finite float16."""

_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_SUMS = {  # overflow, or lose small terms, where their inputs and results would do
    "CumSum", "Exp", "Pow", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
}  # fmt: skip
_FOLLOWS = {  # cheap: a result in float32 stays so until something wider than it reads it
    "Abs", "Add", "Clip", "Div", "Expand", "Flatten", "Identity", "Log", "Max", "Min", "Mul", "Neg", "Reciprocal",
    "ReduceMax", "ReduceMean", "ReduceMin", "Reshape", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
_BOTH = frozenset({0, 1})
_FACTORS = {  # which inputs scale a result, so that a weight there has to keep its digits
    "Conv": {1}, "ConvTranspose": {1}, "Gemm": _BOTH, "MatMul": _BOTH, "Div": _BOTH, "Mul": _BOTH, "Equal": _BOTH,
    "Greater": _BOTH, "GreaterOrEqual": _BOTH, "Less": _BOTH, "LessOrEqual": _BOTH,
}  # fmt: skip
_MAX_ROUNDING: Final = 2.0**-8
"""Of a weight's norm; float16 rounds what is within its range by 2^-11 at most."""
ANY_TYPE: Final = {"Cast", "Shape", "Size"}
"""Operators that take a float as it comes."""


def wide_nodes(
    model: ir.Model, *, kept: AbstractSet[ir.Node], on_warning: Callable[[str], None] = lambda _: None
) -> set[ir.Node]:
    """Return the nodes to leave in float32; nodes that hold bodies are never among them.

    These are: what the user keeps; what has no float16 form in ONNX; what computes on shapes alone, because sizes and
    positions above 2048 are no float16 numbers; powers, exponentials and sums, with the cheap arithmetic on their
    results; and what reads a weight that float16 does not hold.
    """
    choice = _Choice(model, kept, on_warning)
    choice.visit(model.graph)
    return choice.wide


def schema_of(node: ir.Node, model: ir.Model) -> onnx.defs.OpSchema | None:
    """Return ONNX's own description of a node's operator, or None for others' operators."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = model.opset_imports.get(domain)
    try:
        return None if version is None else onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def half_inputs(node: ir.Node, schema: onnx.defs.OpSchema) -> Iterator[tuple[int, ir.Value, str]]:
    """Yield position, value and type variable of the floats, of either width, that a node takes in float16 too."""
    if node.op_type in ANY_TYPE:
        return
    takes_half = {t.type_param_str for t in schema.type_constraints if "tensor(float16)" in t.allowed_type_strs}
    last = len(schema.inputs) - 1  # which stands for all the rest of a variable number
    for position, value in enumerate(node.inputs):
        variable = schema.inputs[min(position, last)].type_str
        if value is not None and value.dtype in {ir.DataType.FLOAT, ir.DataType.FLOAT16} and variable in takes_half:
            yield position, value, variable


def typed_outputs(node: ir.Node, schema: onnx.defs.OpSchema) -> Iterator[tuple[ir.Value, str]]:
    """Yield the outputs of a node with their type variables."""
    last = len(schema.outputs) - 1  # which stands for all the rest of a variable number
    for position, value in enumerate(node.outputs):
        yield value, schema.outputs[min(position, last)].type_str


def is_factor(node: ir.Node, position: int) -> bool:
    """Return whether an input of a node scales what it makes."""
    return position in _FACTORS.get(node.op_type, ())


def is_float(value: ir.Value) -> bool:
    """Return whether a value is a float32 tensor."""
    return isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def beyond_half(tensor: ir.TensorProtocol | None) -> float | None:
    """Return the one number that stands for infinity in a float tensor, or NaN for several; None: all are in range."""
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return None
    array = np.abs(tensor.numpy())
    large = array[(array > HALF_MOST) & np.isfinite(array)]
    if not large.size:
        return None
    return float(large[0]) if (large == large[0]).all() else float("nan")


def rounding_of(tensor: ir.TensorProtocol) -> float:
    """Return what float16 changes in a tensor, as a share of its norm; infinity stays out of it."""
    array = tensor.numpy()
    largest = float(np.abs(array, where=np.isfinite(array), out=np.zeros_like(array)).max(initial=0.0))
    if tensor.dtype != ir.DataType.FLOAT or not largest:
        return 0.0
    finite = np.where(np.isfinite(array), array, 0)
    lost = finite - finite.clip(-HALF_MOST, HALF_MOST).astype(np.float16)
    return float(np.linalg.norm(lost / largest) / np.linalg.norm(finite / largest))


class _Choice:
    def __init__(self, model: ir.Model, kept: AbstractSet[ir.Node], on_warning: Callable[[str], None]) -> None:
        self.wide: set[ir.Node] = set()
        self._model = model
        self._kept = kept
        self._on_note = on_warning
        self._content: set[ir.Value] = set()
        """Values that depend on what the inputs hold."""
        self._sizes: set[ir.Value] = set()
        """Values that depend on no more than the inputs' sizes."""
        self._in_float32: set[ir.Value] = set()
        self._beyond: dict[tuple[ir.Value, bool], bool] = {}

    def visit(self, graph: ir.Graph) -> None:
        self._content |= set(graph.inputs)
        for node in graph:
            inside = list(bodies(node))
            for body in inside:
                self.visit(body)
            if inside:
                self._content |= set(node.outputs)
                self._in_float32 |= set(node.outputs)
                continue
            self._trace(node)
            schema = schema_of(node, self._model)
            if schema is None or self._stays(node, schema):
                self.wide.add(node)
                self._in_float32 |= set(node.outputs)
            elif node.op_type != "Cast":
                halves = {variable for _, _, variable in half_inputs(node, schema)}
                self._in_float32 |= {value for value, variable in typed_outputs(node, schema) if variable not in halves}

    def _trace(self, node: ir.Node) -> None:
        if node.op_type in {"Shape", "Size"}:
            self._sizes |= set(node.outputs)
        elif any(value in self._content for value in node.inputs):
            self._content |= set(node.outputs)
        elif any(value in self._sizes for value in node.inputs):
            self._sizes |= set(node.outputs)

    def _stays(self, node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
        if node in self._kept or node.op_type in _SUMS | _QUANTISED:
            return True
        if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:  # a power, as norms write it
            return True
        values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]
        if any(not isinstance(value.type, ir.TensorType) for value in values):  # sequences, or not inferred
            return True
        if any(value in self._sizes for value in node.outputs):
            return True
        floats = [value for value in node.inputs if value is not None and is_float(value)]
        computed = [value for value in floats if not value.is_initializer()]
        if node.op_type in _FOLLOWS and computed and all(value in self._in_float32 for value in computed):
            return True
        return any(self._is_beyond(value, node, position) for position, value, _ in half_inputs(node, schema))

    def _is_beyond(self, value: ir.Value, node: ir.Node, position: int) -> bool:
        """Return whether a weight is not to be float16: a single number that is only added stands for infinity."""
        if not value.is_initializer() or value.const_value is None:
            return False
        factor = is_factor(node, position)
        if (value, factor) not in self._beyond:
            beyond = beyond_half(value.const_value)
            several = beyond is not None and np.isnan(beyond)
            self._beyond[value, factor] = several or (factor and rounding_of(value.const_value) > _MAX_ROUNDING)
            if self._beyond[value, factor] and value.const_value.size > 1:
                self._on_note(f"node '{node.name}' stays in fp32: its weight '{value.name}' is beyond float16's range")
        return self._beyond[value, factor]

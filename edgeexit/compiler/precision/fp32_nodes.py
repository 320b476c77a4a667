"""Selects the nodes of a float16 model that stay in float32 because they need its range or precision."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from edgeexit.compiler.graph import subgraphs_of
from edgeexit.compiler.precision.masks import FP16_MAX, MaskNumbers, large_number
from edgeexit.progress import NO_PROGRESS, Progress

_QDQ_OPERATORS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_SENSITIVE_OPERATORS = {  # results or partial sums overflow, or lose small terms, although the inputs fit into float16
    "CumSum", "Exp", "Pow", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
}  # fmt: skip
_CHEAP_OPERATORS = {  # they stay in float32 if all their computed inputs are in float32
    "Abs", "Add", "Clip", "Div", "Expand", "Flatten", "Identity", "Log", "Max", "Min", "Mul", "Neg", "Reciprocal",
    "ReduceMax", "ReduceMean", "ReduceMin", "Reshape", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
_BOTH = frozenset({0, 1})
_SCALE_INPUTS = {  # factors, divisors and compared values: a weight there must keep its relative precision
    "Conv": {1}, "ConvTranspose": {1}, "Gemm": _BOTH, "MatMul": _BOTH, "Div": _BOTH, "Mul": _BOTH, "Equal": _BOTH,
    "Greater": _BOTH, "GreaterOrEqual": _BOTH, "Less": _BOTH, "LessOrEqual": _BOTH,
}  # fmt: skip
_MAX_ROUNDING: Final = 2.0**-8
"""Largest accepted rounding error of a weight, as a fraction of its norm; normal float16 numbers have at most 2^-11."""
TYPE_AGNOSTIC_OPERATORS: Final = {"Cast", "Shape", "Size"}
"""Operators whose result does not depend on the float type of their input."""


def select_fp32_nodes(model: ir.Model, *, kept: AbstractSet[ir.Node], progress: Progress = NO_PROGRESS) -> set[ir.Node]:
    """Return the nodes that must stay in float32.

    These are: the nodes in `kept`; operators without a float16 form in ONNX; operators on sequences; Q/DQ nodes;
    computations on shapes, because float16 cannot represent all integers above 2048; powers, exponentials and sums, and
    the cheap arithmetic on their results; comparisons and outputs of a number that stands for infinity; and nodes that
    read a weight which float16 cannot represent, with a warning unless the weight has one element. Nodes with subgraphs
    are left out: only the nodes in their subgraphs are converted.
    """
    selection = _Fp32NodeSelection(model, kept, progress)
    selection.visit(model.graph)
    return selection.nodes


def schema_of(node: ir.Node, model: ir.Model) -> onnx.defs.OpSchema | None:
    """Return the ONNX schema of a node's operator, or None if ONNX does not define the operator."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = model.opset_imports.get(domain)
    try:
        return None if version is None else onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def fp16_inputs(node: ir.Node, schema: onnx.defs.OpSchema) -> Iterator[tuple[int, ir.Value, str]]:
    """Yield position, value and schema type variable of each float input that the operator also accepts in float16."""
    if node.op_type in TYPE_AGNOSTIC_OPERATORS:
        return
    takes_half = {t.type_param_str for t in schema.type_constraints if "tensor(float16)" in t.allowed_type_strs}
    last = len(schema.inputs) - 1  # a variadic parameter stands for all remaining ones
    for position, value in enumerate(node.inputs):
        variable = schema.inputs[min(position, last)].type_str
        if value is not None and value.dtype in {ir.DataType.FLOAT, ir.DataType.FLOAT16} and variable in takes_half:
            yield position, value, variable


def typed_outputs(node: ir.Node, schema: onnx.defs.OpSchema) -> Iterator[tuple[ir.Value, str]]:
    """Yield the outputs of a node, each with its type variable in the schema."""
    last = len(schema.outputs) - 1  # a variadic parameter stands for all remaining ones
    for position, value in enumerate(node.outputs):
        yield value, schema.outputs[min(position, last)].type_str


def is_scale_input(node: ir.Node, position: int) -> bool:
    """Return True if the input at `position` is a factor, a divisor or a compared value."""
    return position in _SCALE_INPUTS.get(node.op_type, ())


def is_float32(value: ir.Value) -> bool:
    """Return True if a value is a float32 tensor."""
    return isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def fp16_rounding_error(tensor: ir.TensorProtocol) -> float:
    """Return the L2 norm of the error that float16 causes in a float32 tensor, as a fraction of the tensor's L2 norm.

    Infinities are left out.
    """
    array = tensor.numpy()
    largest = float(np.abs(array, where=np.isfinite(array), out=np.zeros_like(array)).max(initial=0.0))
    if tensor.dtype != ir.DataType.FLOAT or not largest:
        return 0.0
    finite = np.where(np.isfinite(array), array, 0)
    lost = finite - finite.clip(-FP16_MAX, FP16_MAX).astype(np.float16)
    return float(np.linalg.norm(lost / largest) / np.linalg.norm(finite / largest))


class _Fp32NodeSelection:
    """Visits a graph in order and collects the nodes that stay in float32."""

    def __init__(self, model: ir.Model, kept: AbstractSet[ir.Node], progress: Progress) -> None:
        self.nodes: set[ir.Node] = set()
        self._model = model
        self._kept = kept | MaskNumbers(model).exact_nodes()
        self._progress = progress
        self._data_dependent: set[ir.Value] = set()
        """Values that depend on the data in the inputs."""
        self._size_dependent: set[ir.Value] = set()
        """Values that depend only on the sizes of the inputs."""
        self._in_float32: set[ir.Value] = set()
        """Values that the visited nodes compute in float32."""
        self._unrepresentable: dict[tuple[ir.Value, bool], bool] = {}
        """(weight, whether it scales a result) -> whether float16 cannot represent it; so each warning appears once."""

    def visit(self, graph: ir.Graph) -> None:
        self._data_dependent |= set(graph.inputs)
        for node in graph:
            subgraphs = list(subgraphs_of(node))
            for subgraph in subgraphs:
                self.visit(subgraph)
            if subgraphs:
                self._data_dependent |= set(node.outputs)
                self._in_float32 |= set(node.outputs)
                continue
            self._trace(node)
            schema = schema_of(node, self._model)
            if schema is None or self._stays(node, schema):
                self.nodes.add(node)
                self._in_float32 |= set(node.outputs)
            elif node.op_type != "Cast":
                halves = {variable for _, _, variable in fp16_inputs(node, schema)}
                self._in_float32 |= {value for value, variable in typed_outputs(node, schema) if variable not in halves}

    def _trace(self, node: ir.Node) -> None:
        """Record whether a node's outputs depend on the data in the inputs, only on their sizes, or on neither."""
        if node.op_type in {"Shape", "Size"}:
            self._size_dependent |= set(node.outputs)
        elif any(value in self._data_dependent for value in node.inputs):
            self._data_dependent |= set(node.outputs)
        elif any(value in self._size_dependent for value in node.inputs):
            self._size_dependent |= set(node.outputs)

    def _stays(self, node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
        if node in self._kept or node.op_type in _SENSITIVE_OPERATORS | _QDQ_OPERATORS:
            return True
        if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:  # a square, as norms compute it
            return True
        values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]
        if any(not isinstance(value.type, ir.TensorType) for value in values):  # a sequence, or unknown
            return True
        if any(value in self._size_dependent for value in node.outputs):
            return True
        floats = [value for value in node.inputs if value is not None and is_float32(value)]
        computed = [value for value in floats if not value.is_initializer()]
        if node.op_type in _CHEAP_OPERATORS and computed and all(value in self._in_float32 for value in computed):
            return True
        return any(self._is_unrepresentable(value, node, position) for position, value, _ in fp16_inputs(node, schema))

    def _is_unrepresentable(self, value: ir.Value, node: ir.Node, position: int) -> bool:
        """Return True if a value is a weight that float16 cannot represent.

        A weight whose numbers beyond the range are all equal is clipped instead, unless it scales the result.
        """
        if not value.is_initializer() or value.const_value is None:
            return False
        scales = is_scale_input(node, position)
        if (value, scales) not in self._unrepresentable:
            number = large_number(value.const_value)
            several = number is not None and np.isnan(number)
            self._unrepresentable[value, scales] = several or (
                scales and fp16_rounding_error(value.const_value) > _MAX_ROUNDING
            )
            if self._unrepresentable[value, scales] and value.const_value.size > 1:
                self._progress.warning(
                    f"node '{node.name}' stays in fp32, because values of its weight '{value.name}' are too large or "
                    "too small for float16"
                )
        return self._unrepresentable[value, scales]

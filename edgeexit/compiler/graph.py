"""Queries and small edits of ONNX graphs that several compiler steps need."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.errors import CompileError

BATCH: Final = "batch"
"""Name of the first dimension of every input, and of every tensor with one row per sample."""

RANDOM: Final = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
"""Operators that return other values in every run."""
REDUCTIONS: Final = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

_IR_VERSION = 10  # the newest version that ONNX Runtime 1.20 reads
_16_BIT = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_QUANTISING = {"DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
_NON_TENSOR = {  # they return a sequence or an optional, but shape inference reports the type of an element
    "Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap",
    "SplitToSequence",
}  # fmt: skip
_INFERENCE_PREFIX = "unk__"  # shape inference gives unknown dimensions names with this prefix


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard operator set that a model imports."""
    return model.opset_imports.get("", 1)


def set_ir_version(model: ir.Model) -> None:
    """Set the model's IR version to the one that its operator set requires, or to 10 if that is newer."""
    opset = onnx.helper.make_opsetid("", opset_of(model))
    model.ir_version = max(_IR_VERSION, onnx.helper.find_min_ir_version_for([opset]))


def has_16_bit_floats(model: ir.Model) -> bool:
    """Return True if any value of a normalised model is float16 or bfloat16."""
    return any(value.dtype in _16_BIT for graph in model.graphs() for value in all_values(graph))


def is_quantised(model: ir.Model) -> bool:
    """Return True if any node of a model quantises values to integers."""
    return any(node.op_type in _QUANTISING for graph in model.graphs() for node in graph)


def infer_shapes(model: ir.Model) -> None:
    """Fill in the types and shapes that ONNX shape inference finds; unknown dimensions have no name afterwards."""
    with silence_libraries():
        passes.ShapeInferencePass(strict_mode=False)(model)
    input_dims = {size.value for value in model.graph.inputs for size in value.shape or () if not isinstance(size, int)}
    for graph in model.graphs():
        for value in (output for node in graph for output in node.outputs):
            node = value.producer()
            if node is not None and node.op_type in _NON_TENSOR and isinstance(value.type, ir.TensorType):
                value.type = value.shape = None
            elif value.shape is not None:
                value.shape = ir.Shape([_without_inferred_name(size, input_dims) for size in value.shape])


def check(model: ir.Model, *, what: str) -> None:
    """Run the ONNX checker. Raises CompileError, which calls the model `what`, if it finds an error."""
    try:
        passes.CheckerPass()(model)
    except Exception as error:  # the pass and the checker raise unrelated classes
        raise CompileError(f"{what} is not valid ONNX: {reason_of(error.__cause__ or error)}") from error


def subgraphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs of a node: the branches of an If, the body of a Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield every value of a graph and of its subgraphs, at any depth."""
    yield from graph.inputs
    yield from tuple(graph.initializers.values())  # a copy, because renaming an initializer changes its key
    for node in graph:
        yield from node.outputs
        for subgraph in subgraphs_of(node):
            yield from all_values(subgraph)


def names_in(graph: ir.Graph) -> set[str]:
    """Return the names of all values and nodes of a graph and of its subgraphs."""
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    return {str(value.name) for value in all_values(graph)}.union(node.name for node in nodes if node.name)


def unique_name(name: str, taken: set[str]) -> str:
    """Return `name`, with a number appended if it is in `taken`, and add the result to `taken`."""
    count = 0
    unique = name
    while unique in taken:
        count += 1
        unique = f"{name}.{count}"
    taken.add(unique)
    return unique


def add_initializer(graph: ir.Graph, tensor: ir.Tensor[Any]) -> ir.Value:
    """Register a tensor, whose name must be unique, as an initializer; return its value."""
    value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def label_of(node: ir.Node) -> str:
    """Return what error messages call a node: `Conv 'name'`, or `the Conv of 'output'` for a node without a name."""
    return f"{node.op_type} '{node.name}'" if node.name else f"the {node.op_type} of '{node.outputs[0].name}'"


def rename_dimensions(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Rename symbolic dimensions in the shape of every value of a graph."""
    for value in all_values(graph):
        if value.shape is not None:
            value.shape = ir.Shape(
                [size if isinstance(size, int) else names.get(str(size.value), size.value) for size in value.shape]
            )


def _without_inferred_name(size: int | ir.SymbolicDim, input_dims: AbstractSet[str | None]) -> int | ir.SymbolicDim:
    if isinstance(size, int) or size.value in input_dims or not str(size.value).startswith(_INFERENCE_PREFIX):
        return size
    return ir.SymbolicDim(None)

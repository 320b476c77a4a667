"""What every step asks of a graph, and does to one."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.reasons import quietly, reason_of
from edgeexit.errors import CompileError

BATCH: Final = "batch"
"""Name of the first dimension of every input, and of what has a row a sample."""

_IR_VERSION = 10  # what ONNX Runtime 1.20 reads
_HALF = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_ROUNDING = {"DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
_NO_TENSORS = {  # what they make; inference takes the type of what is inside for its type
    "Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap",
    "SplitToSequence",
}  # fmt: skip
_MADE_UP = "unk__"  # how inference calls a dimension of which it knows nothing


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard operator set that a model imports."""
    return model.opset_imports.get("", 1)


def set_ir_version(model: ir.Model) -> None:
    """Give a model the IR version that goes with its operator set, or 10, which is the oldest that we write."""
    opset = onnx.helper.make_opsetid("", opset_of(model))
    model.ir_version = max(_IR_VERSION, onnx.helper.find_min_ir_version_for([opset]))


def is_half(model: ir.Model) -> bool:
    """Say whether a normalised model computes anything in 16 bits."""
    return any(value.dtype in _HALF for graph in model.graphs() for value in values_of(graph))


def is_quantised(model: ir.Model) -> bool:
    """Say whether some values of a model are rounded to integers."""
    return any(node.op_type in _ROUNDING for graph in model.graphs() for node in graph)


def infer_shapes(model: ir.Model) -> None:
    """Fill in the types and shapes that ONNX can infer; where it cannot, they stay open."""
    with quietly():
        passes.ShapeInferencePass(strict_mode=False)(model)
    known = {size.value for value in model.graph.inputs for size in value.shape or () if not isinstance(size, int)}
    for graph in model.graphs():
        for value in (output for node in graph for output in node.outputs):
            node = value.producer()
            if node is not None and node.op_type in _NO_TENSORS and isinstance(value.type, ir.TensorType):
                value.type = value.shape = None
            elif value.shape is not None:
                value.shape = ir.Shape([_known(size, known) for size in value.shape])


def check(model: ir.Model, *, what: str) -> None:
    """Run ONNX's checker. Raises CompileError."""
    try:
        passes.CheckerPass()(model)
    except Exception as error:  # the pass wraps and the checker raises classes of their own
        raise CompileError(f"{what} is not valid ONNX: {reason_of(error.__cause__ or error)}") from error


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs inside a node: the branches of an If, the body of a Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield every value of a graph and of the bodies in it."""
    yield from graph.inputs
    yield from tuple(graph.initializers.values())  # one that is renamed changes its key
    for node in graph:
        yield from node.outputs
        for body in bodies(node):
            yield from values_of(body)


def names_in(graph: ir.Graph) -> set[str]:
    """Return the names of the values and nodes of a graph and of the bodies in it."""
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    return {str(value.name) for value in values_of(graph)}.union(node.name for node in nodes if node.name)


def free_name(name: str, taken: set[str]) -> str:
    """Return a name that is not taken, rather `name` itself, and take it."""
    count = 0
    free = name
    while free in taken:
        count += 1
        free = f"{name}.{count}"
    taken.add(free)
    return free


def rename_dimensions(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Rename symbolic dimensions of every value of a graph."""
    for value in values_of(graph):
        if value.shape is not None:
            value.shape = ir.Shape(
                [size if isinstance(size, int) else names.get(str(size.value), size.value) for size in value.shape]
            )


def _known(size: int | ir.SymbolicDim, known: AbstractSet[str | None]) -> int | ir.SymbolicDim:
    if not isinstance(size, int) and str(size.value).startswith(_MADE_UP) and size.value not in known:
        return ir.SymbolicDim(None)
    return size

"""Brings an exported graph into the one form that the other steps rely on, and says what its inputs are."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit import __version__
from edgeexit.compiler.export.inputs import BATCH
from edgeexit.compiler.reasons import quietly, reason_of
from edgeexit.compiler.weights import read_small_weights
from edgeexit.errors import CompileError
from edgeexit.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, TensorSpec

_OLDEST_OPSET = 13  # the readout's operators
_IR_VERSION = 10  # what ONNX Runtime 1.20 reads
_FEWEST_EXITS = 2
_ROUNDING = {"DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
_NO_TENSORS = {  # what they make; inference takes the type of what is inside for its type
    "Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap",
    "SplitToSequence",
}  # fmt: skip
_SUFFIXES = (READOUT_SUFFIX, PROBABILITIES_SUFFIX)
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Beside a node: the modules that it was traced in, outer to inner, then its own name, as Python writes a list."""
_HALF = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_MADE_UP = "unk__"  # how inference calls a dimension of which it knows nothing


def normalise(model: ir.Model, *, exits: Sequence[str]) -> None:
    """Normalise a model in place and name its outputs `exits`.

    Afterwards constants are initializers of the main graph, every first input dimension is called `batch`, shapes are
    inferred, nothing unused is left, no exit is read by a node or appears twice, no value has a name that the readouts
    take, and nothing is written that does not follow from the model (stack traces, paths, names of tools). Raises
    CompileError for a model without at least two exits, equal names or those of readouts, a fixed batch, a value that
    nothing makes or an operator set that is too old or too new.
    """
    graph = model.graph
    if "ai.onnx" in model.opset_imports:  # the other name of the standard operators
        model.opset_imports[""] = model.opset_imports.pop("ai.onnx")
    _check_names(graph, exits)
    opset = opset_of(model)
    if opset < _OLDEST_OPSET:
        raise CompileError(f"the model's opset {opset} is too old; export it again with {_OLDEST_OPSET} or newer")
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise CompileError(f"the model's opset {opset} is too new: onnx {onnx.__version__} has {newest}; upgrade onnx")
    _check_whole(model)
    read_small_weights(model)
    for step in (
        passes.RemoveInitializersFromInputsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
    ):
        step(model)
    _name_exits(graph, exits)
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
    ):
        tidy(model)
    _name_batch(graph)
    _strip(model)
    set_ir_version(model)
    infer_shapes(model)


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard operator set that a model imports."""
    return model.opset_imports.get("", 1)


def set_ir_version(model: ir.Model) -> None:
    """Give a model the IR version that goes with its operator set, or 10, which is the oldest that we write."""
    opset = onnx.helper.make_opsetid("", opset_of(model))
    model.ir_version = max(_IR_VERSION, onnx.helper.find_min_ir_version_for([opset]))


def is_half(model: ir.Model) -> bool:
    """Say whether a normalised model computes anything in 16 bits."""
    return any(value.dtype in _HALF for graph in model.graphs() for value in _values(graph))


def is_quantised(model: ir.Model) -> bool:
    """Say whether some values of a model are rounded to integers."""
    return any(node.op_type in _ROUNDING for graph in model.graphs() for node in graph)


def input_specs(graph: ir.Graph) -> tuple[TensorSpec, ...]:
    """Return the specifications of a graph's inputs; a dimension without name or size gets a name.

    Raises CompileError for an input that is no tensor of numbers, or that is empty.
    """
    for value in graph.inputs:
        if any(size == 0 for size in value.shape or ()):
            raise CompileError(f"input '{value.name}' has a dimension of size 0: there is nothing to compute on")
    return tuple(
        TensorSpec(
            name=str(value.name),
            dtype=_dtype_name(value),
            shape=tuple(
                size if isinstance(size, int) else str(size.value or f"{value.name}_{axis}")
                for axis, size in enumerate(value.shape or ())
            ),
        )
        for value in graph.inputs
    )


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


def names_in(graph: ir.Graph) -> set[str]:
    """Return the names of the values and nodes of a graph and of the bodies in it."""
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    return {str(value.name) for value in _values(graph)}.union(node.name for node in nodes if node.name)


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
    for value in _values(graph):
        if value.shape is not None:
            value.shape = ir.Shape(
                [size if isinstance(size, int) else names.get(str(size.value), size.value) for size in value.shape]
            )


def _check_names(graph: ir.Graph, exits: Sequence[str]) -> None:
    if len(exits) < _FEWEST_EXITS:
        raise CompileError(
            f"the model has {len(exits)} exit{'' if len(exits) == 1 else 's'}; an early-exit model returns at least 2, "
            "shallow to deep"
        )
    inputs = {value.name for value in graph.inputs}
    for index, name in enumerate(exits):
        if name in exits[:index]:
            raise CompileError(f"two exits are called '{name}'; give every output a name of its own")
        if name in inputs:
            raise CompileError(f"exit '{name}' has the name of an input; rename one of them")
        for suffix in _SUFFIXES:
            if name.endswith(suffix):
                raise CompileError(f"exit '{name}' must not end in '{suffix}': that is the name of a readout")
            if f"{name}{suffix}" in inputs:
                raise CompileError(f"input '{name}{suffix}' has the name of exit '{name}'s readout; rename the input")
    if TEMPERATURE_INPUT in inputs:
        raise CompileError(f"the model has an input '{TEMPERATURE_INPUT}' already: is it a stage of a bundle?")


def _check_whole(model: ir.Model) -> None:
    for graph in model.graphs():
        for node in graph:
            for value in node.inputs:
                if value is not None and not (value.producer() or value.is_graph_input() or value.is_initializer()):
                    raise CompileError(
                        f"node '{node.name}' ({node.op_type}) reads '{value.name}', which nothing makes; is the model "
                        "whole?"
                    )


def _known(size: int | ir.SymbolicDim, known: AbstractSet[str | None]) -> int | ir.SymbolicDim:
    if not isinstance(size, int) and str(size.value).startswith(_MADE_UP) and size.value not in known:
        return ir.SymbolicDim(None)
    return size


def _name_exits(graph: ir.Graph, exits: Sequence[str]) -> None:
    """Give every output its name, through an Identity where the value is also something else."""
    values = list(graph.outputs)
    graph.outputs.clear()
    taken = names_in(graph)
    reserved = {TEMPERATURE_INPUT, *(f"{name}{suffix}" for name in exits for suffix in _SUFFIXES)}
    for value in _values(graph):
        if value.name in reserved:
            value.name = free_name(f"{value.name}.value", taken)
    seen: set[ir.Value] = set()
    for value, name in zip(values, exits, strict=True):
        leaving = value
        if value.uses() or value.producer() is None or value in seen:
            node = ir.node("Identity", [value], name=free_name(f"{name}.exit", taken))
            graph.append(node)
            leaving = node.outputs[0]
            leaving.type, leaving.shape = value.type, value.shape
        seen.add(value)
        for other in _values(graph):
            if other is not leaving and other.name == name:
                other.name = free_name(f"{name}.value", taken)
        leaving.name = name
        taken.add(name)
        graph.outputs.append(leaving)


def _name_batch(graph: ir.Graph) -> None:
    """Call the first dimension of every input `batch`, wherever it appears."""
    names: dict[str, str] = {}
    for value in graph.inputs:
        if value.shape is None or len(value.shape) == 0:
            raise CompileError(
                f"input '{value.name}' has {'no shape' if value.shape is None else 'no dimensions'}; the first "
                "dimension of every input is the batch"
            )
        first = value.shape[0]
        if isinstance(first, int):
            raise CompileError(
                f"input '{value.name}' has a fixed batch of {first}; export the model again with a dynamic first "
                "dimension (dynamic_shapes, or dynamic_axes in old exporters)"
            )
        if first.value is not None:
            names[first.value] = BATCH
        value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])
    rename_dimensions(graph, names)


def _name_after_modules(model: ir.Model) -> None:
    """Put the path of the torch module that a node comes from before its name: `heads.0/node_linear`.

    torch writes it beside the node. So users find their modules in patterns, errors and TensorRT's account.
    """
    for graph in model.graphs():
        for node in graph:
            try:
                *modules, _ = ast.literal_eval(node.metadata_props.get(_SCOPES, ""))
            except (SyntaxError, TypeError, ValueError):  # not there, or not torch's
                continue
            named = [module for module in modules if module and not module.startswith("_")]
            if named:
                node.name = f"{named[-1]}/{node.name or node.op_type}"


def _strip(model: ir.Model) -> None:
    """Remove what is about the export, not about the model."""
    _name_after_modules(model)
    passes.ClearMetadataAndDocStringPass()(model)
    graphs: list[ir.Graph | ir.Function] = [*model.graphs(), *model.functions.values()]
    for graph in graphs:
        graph.metadata_props.clear()
        graph.doc_string = None
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.graph.name = "main"
    model.producer_name, model.producer_version = "edgeexit", __version__
    model.domain = model.doc_string = model.model_version = None


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield every value of a graph and of the bodies in it."""
    yield from graph.inputs
    yield from tuple(graph.initializers.values())  # one that is renamed changes its key
    for node in graph:
        yield from node.outputs
        for body in bodies(node):
            yield from _values(body)


def _dtype_name(value: ir.Value) -> str:
    if value.dtype is None:
        raise CompileError(f"input '{value.name}' has no type; is the model whole?")
    if not isinstance(value.type, ir.TensorType):
        raise CompileError(f"input '{value.name}' is a {type(value.type).__name__}; every input has to be a tensor")
    try:
        return str(value.dtype.numpy().name)
    except TypeError as error:
        raise CompileError(f"input '{value.name}' is {value.dtype}, which is no tensor of numbers") from error

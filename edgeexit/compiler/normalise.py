"""Normalises an exported graph for the later steps of the compiler, and describes its inputs."""

import ast
from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit import __version__
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, TensorSpec
from edgeexit.compiler.exits.names import MIN_EXITS
from edgeexit.compiler.graph import (
    BATCH,
    all_values,
    infer_shapes,
    names_in,
    opset_of,
    rename_dimensions,
    set_ir_version,
    unique_name,
)
from edgeexit.compiler.onnx_file.free_batch import FreedBatch, free_batch
from edgeexit.compiler.weights import read_small_weights
from edgeexit.errors import CompileError

_SUFFIXES = (READOUT_SUFFIX, PROBABILITIES_SUFFIX)
_NUMERIC_KINDS = "biuf"  # numpy's own booleans, integers and floats
SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key of the torch exporter: a Python list of the enclosing modules, then the node's name."""


def normalise(model: ir.Model, *, exits: Sequence[str]) -> FreedBatch | None:
    """Normalise a model of opset 13 or newer in place, name its outputs `exits`, and make a fixed batch dynamic.

    Afterwards, constants are initializers of the main graph. The first dimension of every input is `batch`. Shapes are
    inferred, and unused nodes are removed. No node reads an exit, and no value is two exits. No value has a name that
    the readouts need. Metadata of the export (stack traces, paths, tool names) is removed.

    Return the batch that was fixed, or None. Raises CompileError for fewer than two exits, for duplicate names or names
    of readouts, for inputs without a batch or with different fixed ones, for a value that no node produces, for weights
    that cannot be read, and for an operator set that is too new.
    """
    graph = model.graph
    _check_names(graph, exits)
    opset = opset_of(model)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise CompileError(
            f"the model's opset {opset} is too new: onnx {onnx.__version__} supports {newest}; upgrade onnx"
        )
    _check_producers(model)
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
    freed = free_batch(model)
    _name_batch(graph)
    _strip(model)
    set_ir_version(model)
    infer_shapes(model)
    return freed


def input_specs(graph: ir.Graph) -> tuple[TensorSpec, ...]:
    """Return the specifications of a graph's inputs; a dimension without name or size is named `<input>_<axis>`.

    Raises CompileError for an input that is not a numeric tensor, or that is empty.
    """
    for value in graph.inputs:
        if any(size == 0 for size in value.shape or ()):
            raise CompileError(f"input '{value.name}' has a dimension of size 0; every dimension must be at least 1")
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


def _check_names(graph: ir.Graph, exits: Sequence[str]) -> None:
    if len(exits) < MIN_EXITS:
        found = f"1 exit, '{exits[0]}'" if exits else "0 exits"
        raise CompileError(
            f"the model has {found}; an early-exit model returns at least 2, shallow to deep, each as a separate output"
        )
    inputs = {value.name for value in graph.inputs}
    for index, name in enumerate(exits):
        if name in exits[:index]:
            raise CompileError(f"two exits are named '{name}'; give every output a unique name")
        if name in inputs:
            raise CompileError(f"exit '{name}' has the name of an input; rename one of them")
        for suffix in _SUFFIXES:
            if name.endswith(suffix):
                raise CompileError(
                    f"the name of exit '{name}' ends in '{suffix}', which is reserved for readouts; rename it"
                )
            if f"{name}{suffix}" in inputs:
                raise CompileError(
                    f"input '{name}{suffix}' has the name of a readout of exit '{name}'; rename the input"
                )
    if TEMPERATURE_INPUT in inputs:
        raise CompileError(
            f"the model already has an input '{TEMPERATURE_INPUT}'; is it a stage of a bundle? Compile the full model"
        )


def _check_producers(model: ir.Model) -> None:
    for graph in model.graphs():
        for node in graph:
            for value in node.inputs:
                if value is not None and not (value.producer() or value.is_graph_input() or value.is_initializer()):
                    raise CompileError(
                        f"the node that produces '{node.outputs[0].name}' ({node.op_type}) reads '{value.name}', which "
                        "no node produces; is the file complete?"
                    )


def _name_exits(graph: ir.Graph, exits: Sequence[str]) -> None:
    """Name the outputs after the exits, and rename all other values with a name that an exit or a readout needs.

    An Identity is added behind a value that a node reads, that no node produces, or that is also another output.
    """
    values = list(graph.outputs)
    graph.outputs.clear()
    taken = names_in(graph)
    reserved = {TEMPERATURE_INPUT, *(f"{name}{suffix}" for name in exits for suffix in _SUFFIXES)}
    for value in all_values(graph):
        if value.name in reserved:
            value.name = unique_name(f"{value.name}.value", taken)
    seen: set[ir.Value] = set()
    for value, name in zip(values, exits, strict=True):
        output = value
        if value.uses() or value.producer() is None or value in seen:
            node = ir.node("Identity", [value], name=unique_name(f"{name}.exit", taken))
            graph.append(node)
            output = node.outputs[0]
            output.type, output.shape = value.type, value.shape
        seen.add(value)
        for other in all_values(graph):
            if other is not output and other.name == name:
                other.name = unique_name(f"{name}.value", taken)
        output.name = name
        taken.add(name)
        graph.outputs.append(output)


def _name_batch(graph: ir.Graph) -> None:
    """Rename the first dimension of every input to `batch`, in all shapes."""
    names: dict[str, str] = {}
    for value in graph.inputs:
        if value.shape is None or len(value.shape) == 0:
            raise CompileError(
                f"input '{value.name}' has {'no shape' if value.shape is None else 'no dimensions'}; the first "
                "dimension of every input is the batch"
            )
        first = value.shape[0]
        if isinstance(first, ir.SymbolicDim) and first.value is not None:
            names[first.value] = BATCH
        value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])
    rename_dimensions(graph, names)


def _name_after_modules(model: ir.Model) -> None:
    """Put the path of the torch module before the name of each node: `heads.0/node_linear`.

    The torch exporter stores the path in the node's metadata. With it, users recognise their modules in error messages
    and in TensorRT's logs, and can select them with `--keep-fp32`.
    """
    for graph in model.graphs():
        for node in graph:
            try:
                *modules, _ = ast.literal_eval(node.metadata_props.get(SCOPES, ""))
            except (SyntaxError, TypeError, ValueError):  # no metadata, or from another exporter
                continue
            named = [module for module in modules if module and not module.startswith("_")]
            if named:
                node.name = f"{named[-1]}/{node.name or node.op_type}"


def _strip(model: ir.Model) -> None:
    """Remove the metadata of the export, after the nodes are named after their torch modules."""
    _name_after_modules(model)
    passes.ClearMetadataAndDocStringPass()(model)
    graphs: list[ir.Graph | ir.Function] = [*model.graphs(), *model.functions.values()]
    for graph in graphs:
        graph.metadata_props.clear()
        graph.doc_string = None
    for value in all_values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.graph.name = "main"
    model.producer_name, model.producer_version = "edgeexit", __version__
    model.domain = model.doc_string = model.model_version = None


def _dtype_name(value: ir.Value) -> str:
    if value.dtype in {None, ir.DataType.UNDEFINED}:
        raise CompileError(f"input '{value.name}' has no type; is the file complete?")
    if not isinstance(value.type, ir.TensorType):
        raise CompileError(f"input '{value.name}' is a {type(value.type).__name__}; every input must be a tensor")
    dtype = value.dtype.numpy()
    if dtype.kind not in _NUMERIC_KINDS:
        raise CompileError(
            f"input '{value.name}' has the type {value.dtype.name}; every input must be a tensor of booleans, integers "
            "or floats in a type of numpy"
        )
    return str(dtype.name)

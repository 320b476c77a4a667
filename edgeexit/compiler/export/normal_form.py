"""Brings an exported graph into the one form that the other steps rely on, and says what its inputs are."""

import ast
from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit import __version__
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, TensorSpec
from edgeexit.compiler.graph import (
    BATCH,
    free_name,
    infer_shapes,
    names_in,
    opset_of,
    rename_dimensions,
    set_ir_version,
    values_of,
)
from edgeexit.compiler.weights import read_small_weights
from edgeexit.errors import CompileError

_OLDEST_OPSET = 13  # the readout's operators
_MIN_EXITS = 2
_SUFFIXES = (READOUT_SUFFIX, PROBABILITIES_SUFFIX)
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Beside a node: the modules that it was traced in, outer to inner, then its own name, as Python writes a list."""


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


def _check_names(graph: ir.Graph, exits: Sequence[str]) -> None:
    if len(exits) < _MIN_EXITS:
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


def _name_exits(graph: ir.Graph, exits: Sequence[str]) -> None:
    """Give every output its name, through an Identity where the value is also something else."""
    values = list(graph.outputs)
    graph.outputs.clear()
    taken = names_in(graph)
    reserved = {TEMPERATURE_INPUT, *(f"{name}{suffix}" for name in exits for suffix in _SUFFIXES)}
    for value in values_of(graph):
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
        for other in values_of(graph):
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
    for value in values_of(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.graph.name = "main"
    model.producer_name, model.producer_version = "edgeexit", __version__
    model.domain = model.doc_string = model.model_version = None


def _dtype_name(value: ir.Value) -> str:
    if value.dtype is None:
        raise CompileError(f"input '{value.name}' has no type; is the model whole?")
    if not isinstance(value.type, ir.TensorType):
        raise CompileError(f"input '{value.name}' is a {type(value.type).__name__}; every input has to be a tensor")
    try:
        return str(value.dtype.numpy().name)
    except TypeError as error:
        raise CompileError(f"input '{value.name}' is {value.dtype}, which is no tensor of numbers") from error

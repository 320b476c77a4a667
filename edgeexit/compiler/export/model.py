"""Converts a loaded model to one normalised graph, with samples and the original model, which the graph must equal."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir
import torch

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.choose_exits import choose_exits
from edgeexit.compiler.export.arguments import order_inputs, parameters_of
from edgeexit.compiler.export.exit_module import ExitModule, remove_prefix, wrap_module
from edgeexit.compiler.export.inputs import Arrays, draw_samples, sizes_given, specs_of, take_samples
from edgeexit.compiler.export.normalise import input_specs, normalise
from edgeexit.compiler.export.program_module import ProgramModule, output_names_of
from edgeexit.compiler.export.source import Loaded, OnnxFile
from edgeexit.compiler.export.torch_export import export_module, name_inputs, to_onnx
from edgeexit.compiler.opset.lowering import WORKING_OPSET, lower_opset
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError
from edgeexit.progress import NO_PROGRESS, Progress


class ExportedModel(NamedTuple):
    """A model as one normalised graph, with samples and the original to compare the graph with."""

    model: ir.Model
    exits: tuple[str, ...]
    """Names of the graph's outputs."""
    inputs: tuple[TensorSpec, ...]
    samples: Arrays
    """Input name -> [N, ...]: the user's example, or random samples."""
    module: ExitModule | None = None
    """The torch module that the graph was exported from, or the exported program as a module."""
    file: Path | None = None
    """The ONNX file that the graph was read from."""


def export_model(
    loaded: Loaded,
    *,
    inputs: Sequence[TensorSpec],
    example: Inputs | None,
    opset: int,
    exits: Sequence[str] = (),
    progress: Progress = NO_PROGRESS,
) -> ExportedModel:
    """Convert a model to a normalised graph for operator set `opset`, or 18 if `opset` is older.

    A graph with an older operator set is not converted to a newer one.

    Args:
        loaded: the model.
        inputs: the inputs that the user described; a torch module needs them or an `example`.
        example: real samples, input name -> [N, ...]; random samples are drawn without it.
        opset: newest operator set that the target supports.
        exits: names of the outputs that are exits, or patterns, shallow to deep; default: all outputs.
        progress: receives warnings.

    Raises CompileError for a model that cannot be converted, or whose inputs do not match `inputs`, or outputs that
    cannot be exits; DataError for an example that does not match the model.

    """
    request = _Request(inputs, example, opset, exits)
    if isinstance(loaded, torch.nn.Module):
        return _export_module(loaded, request, progress)
    if isinstance(loaded, OnnxFile):
        outputs = tuple(str(value.name) for value in loaded.model.graph.outputs)
        return _export_graph(loaded.model, outputs, request)._replace(file=loaded.path)
    exported = _export_graph(to_onnx(loaded, opset=opset), output_names_of(loaded), request)
    return exported._replace(module=ExitModule(ProgramModule(loaded), exported.inputs, exported.exits))


class _Request(NamedTuple):
    """What the user asked for; see `export_model`."""

    inputs: Sequence[TensorSpec]
    example: Inputs | None
    opset: int
    exits: Sequence[str]


def _export_module(module: torch.nn.Module, request: _Request, progress: Progress) -> ExportedModel:
    given, example = request.inputs, request.example
    if not given and example is None:
        raise CompileError(
            "a torch model does not describe its inputs: give --input NAME:SHAPE[:DTYPE] or --example FILE.npz"
        )
    specs = order_inputs(module, given or specs_of(example or {}, tuple(parameters_of(module).defaults)))
    samples = draw_samples(specs) if example is None else take_samples(example, specs)
    wrapped = wrap_module(module, specs, samples, request.exits, progress=progress)
    model = to_onnx(export_module(wrapped, specs, samples), opset=request.opset)
    remove_prefix(model)
    name_inputs(model.graph, specs)
    normalise(model, exits=wrapped.outputs)
    lower_opset(model, max(request.opset, WORKING_OPSET))
    return ExportedModel(model, wrapped.outputs, specs, samples, module=wrapped)


def _export_graph(model: ir.Model, outputs: tuple[str, ...], request: _Request) -> ExportedModel:
    """Normalise a graph, which describes its inputs; they must match those that the user described.

    The described inputs set the sizes of symbolic dimensions.
    """
    exits = choose_exits(model, outputs, request.exits) if request.exits else outputs
    normalise(model, exits=exits)
    lower_opset(model, max(request.opset, WORKING_OPSET))
    specs = input_specs(model.graph)
    sizes = sizes_given(specs, request.inputs)
    example = request.example
    samples = draw_samples(specs, sizes=sizes) if example is None else take_samples(example, specs)
    return ExportedModel(model, exits, specs, samples)

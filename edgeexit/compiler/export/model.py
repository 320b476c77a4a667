"""Converts a loaded model to one normalised graph, with samples and the original model, which the graph must equal."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir
import torch

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.export.inputs import Arrays, draw_samples, sizes_given, specs_of, take_samples
from edgeexit.compiler.export.normalise import input_specs, normalise
from edgeexit.compiler.export.source import Loaded, OnnxFile
from edgeexit.compiler.export.torch_export import (
    ProgramModule,
    export_module,
    name_inputs,
    order_inputs,
    parameters_of,
    to_onnx,
)
from edgeexit.compiler.opset.lowering import WORKING_OPSET, lower_opset
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError


class ExportedModel(NamedTuple):
    """A model as one normalised graph, with samples and the original to compare the graph with."""

    model: ir.Model
    exits: tuple[str, ...]
    """Names of the graph's outputs."""
    inputs: tuple[TensorSpec, ...]
    samples: Arrays
    """Input name -> [N, ...]: the user's example, or random samples."""
    module: torch.nn.Module | None = None
    """The torch module that the graph was exported from."""
    file: Path | None = None
    """The ONNX file that the graph was read from."""


def export_model(loaded: Loaded, *, inputs: Sequence[TensorSpec], example: Inputs | None, opset: int) -> ExportedModel:
    """Convert a model to a normalised graph for operator set `opset`, or 18 if `opset` is older.

    A graph with an older operator set is not converted to a newer one.

    Args:
        loaded: the model.
        inputs: the inputs that the user described; a torch module needs them or an `example`.
        example: real samples, input name -> [N, ...]; random samples are drawn without it.
        opset: newest operator set that the target supports.

    Raises CompileError for a model that cannot be converted, or whose inputs do not match `inputs`; DataError for an
    example that does not match the model.

    """
    if isinstance(loaded, torch.nn.Module):
        return _export_module(loaded, inputs, example, opset)
    if isinstance(loaded, OnnxFile):
        return _export_file(loaded, inputs, example, opset)
    model, exits = to_onnx(loaded, opset=opset)
    return _export_graph(model, exits, inputs, example, opset)._replace(module=ProgramModule(loaded))


def _export_module(
    module: torch.nn.Module, given: Sequence[TensorSpec], example: Inputs | None, opset: int
) -> ExportedModel:
    if not given and example is None:
        raise CompileError(
            "a torch model does not describe its inputs: give --input NAME:SHAPE[:DTYPE] or --example FILE.npz"
        )
    names, _ = parameters_of(module)
    specs = order_inputs(module, given or specs_of(example or {}, names))
    samples = draw_samples(specs) if example is None else take_samples(example, specs)
    model, exits = to_onnx(export_module(module, specs, samples), opset=opset)
    name_inputs(model.graph, specs)
    normalise(model, exits=exits)
    lower_opset(model, max(opset, WORKING_OPSET))
    return ExportedModel(model, exits, specs, samples, module=module)


def _export_file(loaded: OnnxFile, given: Sequence[TensorSpec], example: Inputs | None, opset: int) -> ExportedModel:
    exits = tuple(str(value.name) for value in loaded.model.graph.outputs)
    return _export_graph(loaded.model, exits, given, example, opset)._replace(file=loaded.path)


def _export_graph(
    model: ir.Model, exits: tuple[str, ...], given: Sequence[TensorSpec], example: Inputs | None, opset: int
) -> ExportedModel:
    """Normalise a graph, which describes its inputs; `given` must match them, and sets sizes of symbolic dimensions."""
    normalise(model, exits=exits)
    lower_opset(model, max(opset, WORKING_OPSET))
    specs = input_specs(model.graph)
    sizes = sizes_given(specs, given)
    samples = draw_samples(specs, sizes=sizes) if example is None else take_samples(example, specs)
    return ExportedModel(model, exits, specs, samples)

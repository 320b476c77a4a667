"""Converts a loaded model to one normalised graph, with samples and the original model, which the graph must equal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import onnx_ir as ir
import torch

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.exits.choose import choose_exits
from edgeexit.compiler.exits.companions import Companions, output_tensors
from edgeexit.compiler.inputs import sizes_given, specs_of
from edgeexit.compiler.loading.source import Loaded, OnnxFile
from edgeexit.compiler.normalise import input_specs, normalise
from edgeexit.compiler.onnx_file.conversion import FileConversion
from edgeexit.compiler.onnx_file.upgrade_opset import upgrade_opset
from edgeexit.compiler.onnx_file.widen import widen
from edgeexit.compiler.opset.lowering import WORKING_OPSET, lower_opset
from edgeexit.compiler.options import Exporter
from edgeexit.compiler.samples import Arrays, draw_samples, take_samples
from edgeexit.compiler.torch_module.arguments import input_names, order_inputs
from edgeexit.compiler.torch_module.exit_module import ExitModule, remove_prefix, wrap_module
from edgeexit.compiler.torch_module.float32_copy import float32_copy, foreign_parameter
from edgeexit.compiler.torch_module.outputs import choose_outputs
from edgeexit.compiler.torch_module.program_module import (
    ProgramModule,
    keep_tensors,
    outputs_of,
    with_plain_dimensions,
)
from edgeexit.compiler.torch_module.program_sizes import default_sizes
from edgeexit.compiler.tracing.torch_export import name_inputs, to_onnx
from edgeexit.compiler.tracing.tracers import trace
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError
from edgeexit.progress import NO_PROGRESS, Progress


class ExportedModel(NamedTuple):
    """A model as one normalised graph, with samples and the original to compare the graph with."""

    model: ir.Model
    exits: tuple[str, ...]
    """Names of the graph's first outputs."""
    inputs: tuple[TensorSpec, ...]
    samples: Arrays
    """Input name -> [N, ...]: the user's example, or random samples."""
    module: ExitModule | None = None
    """The torch module that the graph was exported from, or the exported program as a module."""
    file: Path | None = None
    """The ONNX file that the graph was read from."""
    companions: Companions = ()
    """The graph's other outputs, which are delivered beside the exits."""
    conversion: FileConversion = FileConversion()
    """What was changed in the ONNX file."""
    masks: tuple[str, ...] = ()
    """Names of the inputs whose values may be minus infinity."""


def export_model(
    loaded: Loaded,
    *,
    inputs: Sequence[TensorSpec],
    example: Inputs | None,
    opset: int,
    exits: Sequence[str] = (),
    companions: Mapping[str, Sequence[str]] = MappingProxyType({}),
    exporter: Exporter = "auto",
    progress: Progress = NO_PROGRESS,
) -> ExportedModel:
    """Convert a model to a normalised graph for operator set `opset`, or 18 if `opset` is older.

    A graph of opset 13 or newer is not converted to a newer one.

    Args:
        loaded: the model.
        inputs: the inputs that the user described; a torch module needs them or an `example`.
        example: real samples, input name -> [N, ...]; random samples are drawn without it.
        opset: newest operator set that the target supports.
        exits: names of the outputs that are exits, or patterns, shallow to deep; default: all that are no companions.
        companions: companion name -> names or patterns of its outputs, in the order of the exits.
        exporter: how a torch module is traced.
        progress: receives warnings.

    Raises CompileError for a model that cannot be converted, or whose inputs do not match `inputs`, or outputs that
    cannot be exits; DataError for an example that does not match the model.

    """
    request = _Request(inputs, example, opset, exits, companions, exporter)
    if isinstance(loaded, torch.nn.Module):
        return _export_module(loaded, request, progress)
    if isinstance(loaded, OnnxFile):
        return _export_file(loaded, request)
    return _export_program(loaded, request)


class _Request(NamedTuple):
    """What the user asked for; see `export_model`."""

    inputs: Sequence[TensorSpec]
    example: Inputs | None
    opset: int
    exits: Sequence[str]
    companions: Mapping[str, Sequence[str]]
    exporter: Exporter


def _export_module(module: torch.nn.Module, request: _Request, progress: Progress) -> ExportedModel:
    """Trace a torch module, which does not describe its inputs."""
    given, example = request.inputs, request.example
    if not given and example is None:
        raise CompileError(
            "a torch model does not describe its inputs: give --input NAME:SHAPE[:DTYPE] or --example FILE.npz"
        )
    specs = order_inputs(module, given or specs_of(example or {}, input_names(module, example or {})))
    samples = draw_samples(specs) if example is None else take_samples(example, specs)
    wrapped = _wrap_in_float32(module, specs, samples, request, progress)
    model = trace(wrapped, specs, samples, opset=request.opset, exporter=request.exporter, progress=progress)
    if (foreign_parameter(wrapped.model) or ("", None))[1] == torch.float64:  # its copy in float32 failed
        widen(model)
    remove_prefix(model)
    name_inputs(model.graph, specs)
    normalise(model, exits=output_tensors(wrapped.exits, wrapped.companions))
    lower_opset(model, max(request.opset, WORKING_OPSET))
    return ExportedModel(model, wrapped.exits, specs, samples, module=wrapped, companions=wrapped.companions)


def _wrap_in_float32(
    module: torch.nn.Module, specs: Sequence[TensorSpec], samples: Arrays, request: _Request, progress: Progress
) -> ExitModule:
    """Wrap the module, or a copy in float32 if it has other floats; a float16 or float64 one may also run as it is."""
    foreign = foreign_parameter(module)
    copied = None if foreign is None else float32_copy(module)
    if foreign is None or copied is None:
        return wrap_module(module, specs, samples, request.exits, request.companions, progress=progress)
    name, dtype = foreign
    text = f"'{name}' is {str(dtype).removeprefix('torch.')}"
    try:
        wrapped = wrap_module(copied, specs, samples, request.exits, request.companions, progress=progress)
    except CompileError as error:
        if dtype in {torch.float16, torch.float64}:  # forward converts its input to this type
            return wrap_module(module, specs, samples, request.exits, request.companions, progress=progress)
        raise CompileError(
            f"{text}, which ONNX Runtime does not support, and in float32 {error}; remove the conversions from forward"
        ) from error
    progress.warning(f"{text}; the model is compiled in float32 (--precision fp16 computes in float16)")
    return wrapped


def _export_program(program: torch.export.ExportedProgram, request: _Request) -> ExportedModel:
    """Convert an exported program; the original is the program itself, as a module."""
    outputs = outputs_of(program)
    choose_outputs(outputs, request.exits, request.companions)  # before the conversion, which takes longer
    names = tuple(name for name, output in outputs.items() if isinstance(output.value, torch.Tensor))
    original = ProgramModule(program)
    plain = with_plain_dimensions(program)
    keep_tensors(plain)
    model = to_onnx(plain, opset=request.opset)
    floats = widen(model)
    if floats is not None and floats.type == "bfloat16":
        raise CompileError(f"'{floats.tensor}' is bfloat16, which ONNX Runtime does not support; export model.float()")
    exported = _export_graph(model, names, request, program=program)
    if exported.conversion.batch is not None:
        raise CompileError(
            f"the program has a fixed batch of {exported.conversion.batch.size}; {exported.conversion.advice()}"
        )
    module = ExitModule(original, exported.inputs, exported.exits, exported.companions)
    return exported._replace(module=module)


def _export_file(loaded: OnnxFile, request: _Request) -> ExportedModel:
    """Convert an ONNX file to the operator sets and types that the compiler processes."""
    model, opset = upgrade_opset(loaded.model)
    floats = widen(model)
    exported = _export_graph(model, tuple(str(value.name) for value in model.graph.outputs), request)
    return exported._replace(file=loaded.path, conversion=exported.conversion._replace(opset=opset, floats=floats))


def _export_graph(
    model: ir.Model,
    outputs: tuple[str, ...],
    request: _Request,
    *,
    program: torch.export.ExportedProgram | None = None,
) -> ExportedModel:
    """Normalise a graph, which describes its inputs; they must match those that the user described.

    The described inputs set the sizes of symbolic dimensions; by default, those of a program are within its bounds.
    """
    exits: tuple[str, ...] = outputs
    companions: Companions = ()
    if request.exits or request.companions:
        exits, companions = choose_exits(model, outputs, request.exits, request.companions)
    freed = normalise(model, exits=output_tensors(exits, companions))
    lower_opset(model, max(request.opset, WORKING_OPSET))
    specs = input_specs(model.graph)
    sizes = {} if program is None else default_sizes(program, specs)
    sizes |= sizes_given(specs, request.inputs)
    example = request.example
    samples = draw_samples(specs, sizes=sizes) if example is None else take_samples(example, specs)
    conversion = FileConversion(batch=freed)
    return ExportedModel(model, exits, specs, samples, companions=companions, conversion=conversion)

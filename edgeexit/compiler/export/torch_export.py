"""Exports a torch module or exported program to an ONNX graph with a dynamic batch."""

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.error_text import cause_of, place_in_user_code, reason_of
from edgeexit.compiler.export.exit_module import ExitModule, in_eval_mode, tensors_of, without_prefix
from edgeexit.compiler.export.inputs import repeat_to
from edgeexit.compiler.graph import rename_dimensions
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_TORCH = Path(torch.__file__).parent
_BRANCH_ERROR = "Could not guard on"  # the other message is "Could not extract specialized integer from"
_OPSETS = (18, 20)  # torch writes no older opset, and the runtimes do not fully support newer ones
_EXPORT_BATCH = 2  # torch.export would specialise a batch of 1


def export_module(module: ExitModule, specs: Sequence[TensorSpec], samples: Inputs) -> ExportedProgram:
    """Trace a module in evaluation mode with torch.export; the symbolic dimensions of `specs` are dynamic.

    Raises CompileError if forward fixes the size of a dynamic dimension, or cannot be traced.
    """
    tensors = tensors_of(module, repeat_to(samples, _EXPORT_BATCH))
    dynamic = tuple(
        {axis: Dim.DYNAMIC for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in specs
    )
    with in_eval_mode(module):
        try:
            with silence_libraries():
                return torch.export.export(module, tensors, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # torch raises many classes here
            raise CompileError(_export_failure(error)) from error


def to_onnx(program: ExportedProgram, *, opset: int) -> ir.Model:
    """Convert a program to ONNX.

    The operator set is the nearest to `opset` between 18 and 20. Raises CompileError for a buffer that forward changes,
    or if the exporter fails.
    """
    opset = sorted((opset, *_OPSETS))[1]
    try:
        with silence_libraries():
            exported = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    except Exception as error:  # the exporter raises many classes
        reason = reason_of(cause_of(error))
        raise CompileError(f"the model cannot be converted to ONNX opset {opset}: {reason}") from error
    if exported is None:
        raise CompileError("the model cannot be converted to ONNX: the exporter returned nothing")
    if exported.exported_program is not None:
        for name in exported.exported_program.graph_signature.buffers_to_mutate.values():
            raise CompileError(
                f"forward changes the buffer '{without_prefix(name)}', but a stage has no state; "
                "change buffers in training mode only"
            )
    return exported.model


def name_inputs(graph: ir.Graph, specs: Sequence[TensorSpec]) -> None:
    """Rename the graph's inputs and their dynamic dimensions as in `specs`; the exporter chooses other names."""
    names: dict[str, str] = {}
    for value, spec in zip(graph.inputs, specs, strict=True):
        value.name = spec.name
        for size, wanted in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(size, ir.SymbolicDim) and size.value is not None and isinstance(wanted, str):
                names.setdefault(size.value, wanted)
    rename_dimensions(graph, names)


def _export_failure(error: Exception) -> str:
    if "specialized it to be a constant" in str(error):
        line = next(line for line in str(error).splitlines() if "specialized it to be a constant" in line)
        return (
            f"forward fixes the size of a dynamic dimension ({line.strip(' -').split('. ')[0]}); "
            "read sizes from x.shape instead of using constants, or give that dimension as a number"
        )
    place = place_in_user_code(error, library=_TORCH)
    at = "" if place is None else f" at {place}"
    if isinstance(error, GuardOnDataDependentSymNode):
        if _BRANCH_ERROR in str(error):
            return f"forward branches on its data{at}; return every exit and let the policy decide"
        return f"forward converts its data to a number{at}; read sizes from shapes, and compute with tensors"
    return f"forward cannot be traced by torch.export{at}: {reason_of(error)}"

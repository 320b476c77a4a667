"""Exports a torch module or exported program to an ONNX graph with a dynamic batch, by torch.export."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import onnx_ir as ir
import torch
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.numbers import int_oo

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.graph import rename_dimensions
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.samples import repeat_to
from edgeexit.compiler.torch_module.evaluation import in_eval_mode
from edgeexit.compiler.torch_module.exit_module import ExitModule, tensors_of, without_prefix
from edgeexit.compiler.tracing.attention import translate_attention
from edgeexit.compiler.tracing.decompositions import decompose
from edgeexit.compiler.tracing.trace_errors import (
    CHANGES_BUFFER,
    UnsafeForwardError,
    at,
    conversion_failure,
    place_of_guard,
    trace_failure,
)
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

EXPORT_BATCH: Final = 2
"""Number of samples that a module is traced with; torch.export would specialise a batch of 1."""
_OPSETS: Final = (18, 20)  # torch writes no older opset, and the runtimes do not fully support newer ones
_TRANSLATIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    torch.ops.aten.scaled_dot_product_attention.default: translate_attention
}


def export_module(
    module: ExitModule, specs: Sequence[TensorSpec], samples: Inputs, *, strict: bool = False
) -> ExportedProgram:
    """Trace a module in evaluation mode with torch.export; the symbolic dimensions of `specs` are dynamic.

    Gradients are off, because with them attention is traced as another operator, whose output has other strides.

    Args:
        module: the module.
        specs: its inputs.
        samples: input name -> [N, ...].
        strict: trace Python bytecode with TorchDynamo, instead of running forward on fake tensors.

    Raises CompileError if forward fixes the size of a dynamic dimension, branches on the size of the batch, or cannot
    be traced.

    """
    tensors = tensors_of(module, repeat_to(samples, EXPORT_BATCH))
    dynamic = tuple(
        {axis: Dim.DYNAMIC for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in specs
    )
    with in_eval_mode(module), torch.no_grad():
        try:
            with silence_libraries():
                program = torch.export.export(module, tensors, dynamic_shapes=dynamic, strict=strict)
        except Exception as error:  # torch raises many classes here
            raise CompileError(trace_failure(error)) from error
    _check_batch(program)
    return program


def to_onnx(program: ExportedProgram, *, opset: int) -> ir.Model:
    """Convert a program to ONNX.

    The operator set is the nearest to `opset` between 18 and 20. Raises CompileError for a buffer that forward changes,
    or if the exporter fails.
    """
    opset = torch_opset(opset)
    try:
        with silence_libraries(), torch.no_grad():
            exported = torch.onnx.export(
                decompose(program),
                dynamo=True,
                opset_version=opset,
                verbose=False,
                custom_translation_table=_TRANSLATIONS,
            )
    except CompileError:
        raise
    except Exception as error:  # the exporter raises many classes
        raise CompileError(conversion_failure(error, opset=opset)) from error
    if exported is None:
        raise CompileError("the model cannot be converted to ONNX: the exporter returned nothing")
    if exported.exported_program is not None:
        for name in exported.exported_program.graph_signature.buffers_to_mutate.values():
            raise UnsafeForwardError(CHANGES_BUFFER.format(without_prefix(name)))
    return exported.model


def torch_opset(opset: int) -> int:
    """Return the operator set that torch's exporters write: the nearest to `opset` between 18 and 20."""
    return sorted((opset, *_OPSETS))[1]


def name_inputs(graph: ir.Graph, specs: Sequence[TensorSpec]) -> None:
    """Rename the graph's inputs and their dynamic dimensions as in `specs`; the exporter chooses other names."""
    names: dict[str, str] = {}
    for value, spec in zip(graph.inputs, specs, strict=True):
        value.name = spec.name
        for size, wanted in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(size, ir.SymbolicDim) and size.value is not None and isinstance(wanted, str):
                names.setdefault(size.value, wanted)
    rename_dimensions(graph, names)


def _check_batch(program: ExportedProgram) -> None:
    """Raise CompileError if forward takes another path for large batches, of which the program has only one."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, torch.Tensor) or not value.ndim:
            continue
        size = value.shape[0]
        bounds = program.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
        if bounds is not None and bounds.upper is not int_oo:
            place = at(place_of_guard(size.node.shape_env, size.node.expr))
            raise UnsafeForwardError(
                f"forward branches on the size of the batch{place}: it takes another path for more than "
                f"{bounds.upper} samples"
            )

"""Exports a torch module to an ONNX graph with a dynamic batch, by TorchScript: the only way for ScriptModules."""
# ruff: noqa: SLF001 - torch has no public names for the log of its exporter

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.error_text import cause_of, place_in_user_code, reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.samples import repeat_to
from edgeexit.compiler.torch_module.evaluation import in_eval_mode, without_fused_transformers
from edgeexit.compiler.torch_module.exit_module import ExitModule, tensors_of
from edgeexit.compiler.tracing.adaptive_pooling import StaticPooling
from edgeexit.compiler.tracing.torch_export import EXPORT_BATCH, torch_opset
from edgeexit.compiler.tracing.trace_errors import TORCH, at
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError


def export_torchscript(module: ExitModule, specs: Sequence[TensorSpec], samples: Inputs, *, opset: int) -> ir.Model:
    """Record the operators that forward calls on two samples, and convert them; ScriptModules keep their branches.

    The trace has one path through forward. Sizes that forward uses in tensor operators stay dynamic; branches, and
    numbers that Python computes, are constants.

    Raises CompileError if the exporter fails.
    """
    tensors = tensors_of(module, repeat_to(samples, EXPORT_BATCH))
    axes = {spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in specs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with (
            in_eval_mode(module),
            torch.no_grad(),
            _exporter_settings(),
            silence_libraries(),
            _static_pooling(module, specs),
        ):
            try:
                torch.onnx.export(
                    _with_script_calls(module, tensors),
                    tensors,
                    path,
                    dynamo=False,
                    opset_version=torch_opset(opset),
                    input_names=list(axes),
                    output_names=list(module.outputs),
                    dynamic_axes=axes,
                )
            except Exception as error:  # torch raises many classes here
                place = at(place_in_user_code(error, library=TORCH))
                reason = reason_of(cause_of(error))
                raise CompileError(f"forward cannot be converted by TorchScript{place}: {reason}") from error
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    _add_unused_inputs(model.graph, specs)
    return model


def _with_script_calls(module: ExitModule, tensors: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    """Return a module that the exporter takes: it cannot trace a call of a ScriptModule, but can convert the trace.

    A ScriptModule is saved and loaded first, because frozen ones cannot be called in a trace otherwise.
    """
    if not _has_script(module):
        return module
    model = module.model
    try:
        if isinstance(model, torch.jit.ScriptModule):
            buffer = io.BytesIO()
            torch.jit.save(model, buffer)
            buffer.seek(0)
            module.model = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
        traced: torch.nn.Module = torch.jit.trace(module, tensors, check_trace=False)  # type: ignore[no-untyped-call]
        return traced
    finally:
        module.model = model


def _has_script(module: torch.nn.Module) -> bool:
    return any(isinstance(each, torch.jit.ScriptModule) for each in module.modules())


def _static_pooling(module: ExitModule, specs: Sequence[TensorSpec]) -> contextlib.AbstractContextManager[object]:
    """Return `StaticPooling` if only the batch is dynamic; ScriptModules cannot run within it."""
    is_dynamic = any(isinstance(size, str) for spec in specs for size in spec.shape[1:])
    return contextlib.nullcontext() if is_dynamic or _has_script(module) else StaticPooling()


@contextlib.contextmanager
def _exporter_settings() -> Iterator[None]:
    """Disable the fused operators of torch's Transformer layers, which cannot be converted, and a log of the graph."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None  # C++ prints it, so `silence_libraries` cannot suppress it
    try:
        with without_fused_transformers():
            yield
    finally:
        torch._C._jit_onnx_log = log


def _add_unused_inputs(graph: ir.Graph, specs: Sequence[TensorSpec]) -> None:
    """Add the inputs that forward does not use, which the exporter may drop, and order the inputs as in `specs`."""
    found = {value.name: value for value in graph.inputs}
    inputs = [
        found.get(spec.name)
        or ir.Value(
            name=spec.name,
            shape=ir.Shape(spec.shape),
            type=ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype))),
        )
        for spec in specs
    ]
    graph.inputs.clear()
    graph.inputs.extend(inputs)

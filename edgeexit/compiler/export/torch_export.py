"""Exports a torch module or exported program to an ONNX graph with a dynamic batch."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.error_text import cause_of, place_in_user_code, reason_of
from edgeexit.compiler.export.inputs import DEFAULT_DIMENSION_SIZE, Arrays, repeat_to
from edgeexit.compiler.graph import rename_dimensions
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_TORCH = Path(torch.__file__).parent
_BRANCH_ERROR = "Could not guard on"  # the other message is "Could not extract specialized integer from"
_OPSETS = (18, 20)  # torch writes no older opset, and the runtimes do not fully support newer ones
_EXPORT_BATCH = 2  # torch.export would specialise a batch of 1


def parameters_of(module: torch.nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of forward's parameters that may be passed by keyword, and of the required ones among them."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY}]
    return tuple(p.name for p in named), tuple(p.name for p in named if p.default is p.empty)


def order_inputs(module: torch.nn.Module, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the inputs in the order of forward's parameters.

    Raises CompileError for an input that is no parameter, or for a required parameter that is no input.
    """
    names, required = parameters_of(module)
    given = {spec.name: spec for spec in specs}
    takes = ", ".join(f"'{name}'" for name in names) or "no named parameters; wrap the model in a module that has them"
    for name in given:
        if name not in names:
            raise CompileError(f"forward has no parameter '{name}'; it takes {takes}")
    for name in required:
        if name not in given:
            raise CompileError(f"forward needs '{name}', which is not among the inputs; forward takes {takes}")
    return tuple(given[name] for name in names if name in given)


def export_module(module: torch.nn.Module, specs: Sequence[TensorSpec], samples: Inputs) -> ExportedProgram:
    """Trace a module in evaluation mode with torch.export; the symbolic dimensions of `specs` are dynamic.

    Raises CompileError if forward fails on the samples, fixes the size of a dynamic dimension, or cannot be traced.
    """
    example = repeat_to(samples, _EXPORT_BATCH)
    dynamic = {
        spec.name: {axis: Dim.DYNAMIC for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in specs
    }
    with _in_eval_mode(module):
        run_module(module, example)
        try:
            with silence_libraries():
                return torch.export.export(module, (), _tensors(module, example), dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # torch raises many classes here
            raise CompileError(_export_failure(error)) from error


def to_onnx(program: ExportedProgram, *, opset: int) -> tuple[ir.Model, tuple[str, ...]]:
    """Convert a program to ONNX; return the model and the names of its exits.

    The operator set is the nearest to `opset` between 18 and 20. Raises CompileError for an exit that is not a tensor,
    for a buffer that forward changes, or if the exporter fails.
    """
    opset = sorted((opset, *_OPSETS))[1]
    returned = [spec.arg for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    exits = exits_of(_pytree.tree_unflatten(returned, program.call_spec.out_spec))
    for name, value in exits.items():
        if not isinstance(value, TensorArgument):
            found = value.value if isinstance(value, ConstantArgument) else type(value).__name__
            raise CompileError(f"forward returns {found} as exit '{name}'; every exit must be a tensor of logits")
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
                f"forward changes the buffer '{name}', but a stage has no state; change buffers in training mode only"
            )
    return exported.model, tuple(exits)


class ProgramModule(torch.nn.Module):
    """An exported program as a torch module that takes its inputs as keyword arguments, in the graph's order."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self._program = program.module()
        self._spec = program.call_spec.in_spec
        self._arguments = [
            spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT
        ]

    def forward(self, **inputs: torch.Tensor) -> Any:
        """Call the program with the positional, named and constant arguments that it was exported with."""
        arrays = iter(inputs.values())
        leaves = [
            argument.value if isinstance(argument, ConstantArgument) else next(arrays) for argument in self._arguments
        ]
        positional, named = _pytree.tree_unflatten(leaves, self._spec)
        return self._program(*positional, **named)


def name_inputs(graph: ir.Graph, specs: Sequence[TensorSpec]) -> None:
    """Rename the graph's inputs and their dynamic dimensions as in `specs`; the exporter chooses other names."""
    names: dict[str, str] = {}
    for value, spec in zip(graph.inputs, specs, strict=True):
        value.name = spec.name
        for size, wanted in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(size, ir.SymbolicDim) and size.value is not None and isinstance(wanted, str):
                names.setdefault(size.value, wanted)
    rename_dimensions(graph, names)


def exits_of(returned: object) -> dict[str, Any]:
    """Return exit name -> value for the return value of forward: its keys, or exit0, exit1, ... for a tuple or list.

    A single value is exit0. Raises CompileError for nested mappings, tuples or lists.
    """
    if isinstance(returned, Mapping):
        exits = {str(name): value for name, value in returned.items()}
    elif isinstance(returned, tuple | list):
        exits = {f"exit{index}": value for index, value in enumerate(returned)}
    else:
        exits = {"exit0": returned}
    for name, value in exits.items():
        if isinstance(value, Mapping | tuple | list):
            raise CompileError(
                f"forward returns {type(value).__name__} as exit '{name}'; return a flat tuple, list or dict of logits"
            )
    return exits


def run_module(module: torch.nn.Module, samples: Inputs) -> Arrays:
    """Run a module in evaluation mode and return exit name -> logits, [N, ...] float32.

    Raises CompileError if forward fails, or if an exit is not a float32 tensor.
    """
    with _in_eval_mode(module), torch.no_grad():
        try:
            returned = module(**_tensors(module, samples))
        except Exception as error:  # the user's forward may raise anything
            shapes = ", ".join(f"'{name}' {'x'.join(map(str, array.shape))}" for name, array in samples.items())
            raise CompileError(
                f"forward fails on {shapes}: {reason_of(error)}; check --input or --example "
                f"(without --example, symbolic dimensions have size {DEFAULT_DIMENSION_SIZE})"
            ) from error
    exits = exits_of(returned)
    for name, value in exits.items():
        if not isinstance(value, torch.Tensor):
            raise CompileError(f"forward returns {type(value).__name__} as exit '{name}'; every exit must be a tensor")
        if value.dtype != torch.float32:
            raise CompileError(f"exit '{name}' is {value.dtype}; an exit must be float32 logits")
    return {name: value.detach().cpu().numpy() for name, value in exits.items()}


@contextlib.contextmanager
def _in_eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and restore the mode of each submodule at the end."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    for submodule in modes:
        submodule.training = False  # not eval(), which an exported program's module does not support
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


def _tensors(module: torch.nn.Module, samples: Inputs) -> dict[str, torch.Tensor]:
    first = next(module.parameters(), None)
    device = None if first is None else first.device
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in samples.items()}


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

"""From a torch module or exported program to an ONNX graph with a dynamic batch."""

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
from edgeexit.compiler.export.inputs import WORD_SIZE, Arrays, repeat_to
from edgeexit.compiler.graph import rename_dimensions
from edgeexit.compiler.reasons import cause_of, place_in_user_code, quietly, reason_of
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_TORCH = Path(torch.__file__).parent
_BRANCHES = "Could not guard on"  # rather than "Could not extract specialized integer from"
_OPSETS = (18, 20)  # torch writes nothing older, whatever it is asked for; runtimes do not yet run all of what is newer
_EXPORT_BATCH = 2  # a batch of 1 would be taken for a constant


def parameters_of(module: torch.nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of all of forward's parameters, and of those that it cannot do without."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY}]
    return tuple(p.name for p in named), tuple(p.name for p in named if p.default is p.empty)


def order_inputs(module: torch.nn.Module, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return inputs in the order of forward's parameters. Raises CompileError where they do not fit it."""
    names, required = parameters_of(module)
    given = {spec.name: spec for spec in specs}
    takes = ", ".join(f"'{name}'" for name in names) or "nothing by name: wrap it in a module whose does"
    for name in given:
        if name not in names:
            raise CompileError(f"forward has no parameter '{name}'; it takes {takes}")
    for name in required:
        if name not in given:
            raise CompileError(f"forward needs '{name}', which is not among the inputs; it takes {takes}")
    return tuple(given[name] for name in names if name in given)


def export_module(module: torch.nn.Module, specs: Sequence[TensorSpec], samples: Inputs) -> ExportedProgram:
    """Trace a module in evaluation mode, with every dimension dynamic for which `specs` have a word.

    Raises CompileError: forward fails on the samples, or fixes the batch, or cannot be traced.
    """
    example = repeat_to(samples, _EXPORT_BATCH)
    dynamic = {
        spec.name: {axis: Dim.DYNAMIC for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in specs
    }
    with _evaluating(module):
        run_module(module, example)
        try:
            with quietly():
                return torch.export.export(module, (), _tensors(module, example), dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # torch raises many classes here
            raise CompileError(_why_not(error)) from error


def to_onnx(program: ExportedProgram, *, opset: int) -> tuple[ir.Model, tuple[str, ...]]:
    """Translate a program to ONNX; return the graph and the names of its exits.

    The graph's operator set is `opset`, or the nearest of 18 to 20. Raises CompileError.
    """
    opset = sorted((opset, *_OPSETS))[1]
    returned = [spec.arg for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    exits = exits_of(_pytree.tree_unflatten(returned, program.call_spec.out_spec))
    for name, value in exits.items():
        if not isinstance(value, TensorArgument):
            raise CompileError(f"forward returns {value} as exit '{name}'; every exit must be a tensor of logits")
    try:
        with quietly():
            exported = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    except Exception as error:  # the exporter raises many classes
        reason = reason_of(cause_of(error))
        raise CompileError(f"the model cannot be translated to ONNX opset {opset}: {reason}") from error
    if exported is None:
        raise CompileError("the model cannot be translated to ONNX: the exporter returned nothing")
    if exported.exported_program is not None:
        for name in exported.exported_program.graph_signature.buffers_to_mutate.values():
            raise CompileError(
                f"forward changes the buffer '{name}'; a stage keeps no state between calls, do that in training alone"
            )
    return exported.model, tuple(exits)


class ProgramModule(torch.nn.Module):
    """An exported program as a module that takes its inputs by the names of the graph, in their order."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self._program = program.module()
        self._spec = program.call_spec.in_spec
        self._arguments = [
            spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT
        ]

    def forward(self, **inputs: torch.Tensor) -> Any:
        """Call the program as it was exported: by position or by name, with the constants that it was given."""
        arrays = iter(inputs.values())
        leaves = [
            argument.value if isinstance(argument, ConstantArgument) else next(arrays) for argument in self._arguments
        ]
        positional, named = _pytree.tree_unflatten(leaves, self._spec)
        return self._program(*positional, **named)


def name_inputs(graph: ir.Graph, specs: Sequence[TensorSpec]) -> None:
    """Give the graph's inputs and their dynamic dimensions the names in `specs`; the exporter has its own."""
    words: dict[str, str] = {}
    for value, spec in zip(graph.inputs, specs, strict=True):
        value.name = spec.name
        for size, word in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(size, ir.SymbolicDim) and size.value is not None and isinstance(word, str):
                words.setdefault(size.value, word)
    rename_dimensions(graph, words)


def exits_of(returned: object) -> dict[str, Any]:
    """Return what forward returned as exit name -> value: a mapping's keys, or exit0, exit1, ... of a sequence.

    Raises CompileError for anything else.
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
    """Return exit name -> array of a module in evaluation mode. Raises CompileError where forward fails."""
    with _evaluating(module), torch.no_grad():
        try:
            returned = module(**_tensors(module, samples))
        except Exception as error:  # whatever the user's forward does
            shapes = ", ".join(f"'{name}' {'x'.join(map(str, array.shape))}" for name, array in samples.items())
            raise CompileError(
                f"forward fails on {shapes}: {reason_of(error)}; where a size is a word and there is no --example, "
                f"{WORD_SIZE} is tried"
            ) from error
    exits = exits_of(returned)
    for name, value in exits.items():
        if not isinstance(value, torch.Tensor):
            raise CompileError(f"forward returns {type(value).__name__} as exit '{name}'; every exit must be a tensor")
        if value.dtype != torch.float32:
            raise CompileError(f"exit '{name}' is {value.dtype}; an exit has to be logits in float32")
    return {name: value.detach().cpu().numpy() for name, value in exits.items()}


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every part of it back as it was."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False  # and not eval(), which an exported program's module refuses
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _tensors(module: torch.nn.Module, samples: Inputs) -> dict[str, torch.Tensor]:
    first = next(module.parameters(), None)
    device = None if first is None else first.device
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in samples.items()}


def _why_not(error: Exception) -> str:
    if "specialized it to be a constant" in str(error):
        line = next(line for line in str(error).splitlines() if "specialized it to be a constant" in line)
        return (
            f"forward fixes a dimension that is to be dynamic ({line.strip(' -').split('. ')[0]}); "
            "take sizes from x.shape instead of writing numbers, or give that dimension as a number"
        )
    place = place_in_user_code(error, library=_TORCH)
    at = "" if place is None else f" at {place}"
    if isinstance(error, GuardOnDataDependentSymNode):
        if _BRANCHES in str(error):
            return f"forward branches on its data{at}; return every exit and let the policy choose"
        return f"forward takes a number from its data{at}; take sizes and indices from shapes, compute with tensors"
    return f"forward cannot be traced by torch.export{at}: {reason_of(error)}"

"""Wraps an exported program as a torch module, names its outputs, and finds the batch sizes that it takes."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, OutputSpec, TensorArgument
from torch.utils import _pytree

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.inputs import DEFAULT_DIMENSION_SIZE
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.torch_module.outputs import Output, flatten_outputs
from edgeexit.errors import CompileError

_UNLIMITED: Final = 1 << 31


class BatchSizes(NamedTuple):
    """The batch sizes that a program takes: `min`, `min + step`, ... up to `max`."""

    min: int = 1
    max: int = _UNLIMITED
    step: int = 1

    def parts(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield the first and the last + 1 of the samples of each part of `count` samples, and a size that it fits in.

        The size may be larger than the part, which then has to be filled up.
        """
        longest = self.max - (self.max - self.min) % self.step
        for first in range(0, count, longest):
            last = min(first + longest, count)
            more = max(0, last - first - self.min)
            yield first, last, self.min + -(-more // self.step) * self.step


class ProgramModule(torch.nn.Module):
    """An exported program as a torch module that takes its inputs by position, in the graph's order."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.batch_sizes = batch_sizes_of(program)
        self._program = program.module()
        self._spec = program.call_spec.in_spec
        self._arguments = [
            spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT
        ]

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Call the program with the positional, named and constant arguments that it was exported with."""
        arrays = iter(inputs)
        leaves = [
            argument.value if isinstance(argument, ConstantArgument) else next(arrays) for argument in self._arguments
        ]
        positional, named = _pytree.tree_unflatten(leaves, self._spec)
        return self._program(*positional, **named)


def outputs_of(program: ExportedProgram) -> dict[str, Output]:
    """Return the outputs of a program, as `flatten_outputs` names them; each tensor is a fake tensor."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    returned = [
        spec.arg.value if isinstance(spec.arg, ConstantArgument) else values[spec.arg.name]
        for spec in program.graph_signature.output_specs
        if spec.kind == OutputKind.USER_OUTPUT
    ]
    return flatten_outputs(_pytree.tree_unflatten(returned, program.call_spec.out_spec))


def keep_tensors(program: ExportedProgram) -> None:
    """Remove in place the outputs of a program that are not tensors, which cannot be converted to ONNX."""
    specs = program.graph_signature.output_specs
    kept = [spec.kind != OutputKind.USER_OUTPUT or isinstance(spec.arg, TensorArgument) for spec in specs]
    if all(kept):
        return
    node = next(iter(reversed(program.graph.nodes)))
    node.args = (tuple(value for value, is_kept in zip(node.args[0], kept, strict=True) if is_kept),)
    specs[:] = [spec for spec, is_kept in zip(specs, kept, strict=True) if is_kept]
    signature = program.module_call_graph[0].signature
    if signature is not None:
        arguments = [spec.arg for spec in _tensor_outputs(program)]
        signature.outputs = arguments
        signature.out_spec = _pytree.tree_structure(tuple(range(len(arguments))))
    program.graph_module.recompile()


def batch_sizes_of(program: ExportedProgram) -> BatchSizes:
    """Return the batch sizes that a program takes, from the bounds of the first dimension of its inputs."""
    for value in _inputs_of(program):
        size = value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else None
        if not isinstance(size, torch.SymInt):
            continue
        expression = size.node.expr
        symbols = list(expression.free_symbols)
        bounds = program.range_constraints.get(symbols[0]) if len(symbols) == 1 else None
        if bounds is None:
            continue
        lower, upper = max(int(bounds.lower), 0), min(bounds.upper, _UNLIMITED)
        first, second = (int(expression.subs(symbols[0], lower + k)) for k in range(2))
        step = max(second - first, 1)
        return BatchSizes(first if first > 0 else first + step, int(expression.subs(symbols[0], upper)), step)
    return BatchSizes()


def default_sizes(program: ExportedProgram, inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Return symbolic dimension -> size for random samples, within the bounds of the program.

    `inputs` are the tensors that the program takes, in order.
    """
    sizes: dict[str, int] = {}
    tensors = [value for value in _inputs_of(program) if isinstance(value, torch.Tensor)]
    for value, spec in zip(tensors, inputs, strict=False):
        for size, name in zip(value.shape[1:], spec.shape[1:], strict=False):
            if isinstance(size, torch.SymInt) and isinstance(name, str):
                sizes.setdefault(name, _default_size(program, size))
    return sizes


def _default_size(program: ExportedProgram, size: torch.SymInt) -> int:
    expression = size.node.expr
    chosen = dict.fromkeys(expression.free_symbols, DEFAULT_DIMENSION_SIZE)
    for symbol in chosen:
        bounds = program.range_constraints.get(symbol)
        if bounds is not None:
            chosen[symbol] = min(max(DEFAULT_DIMENSION_SIZE, bounds.lower), bounds.upper)
    return int(expression.subs(chosen))


def with_plain_dimensions(program: ExportedProgram) -> ExportedProgram:
    """Return the program with a plain symbol for each dimension that is an expression, such as twice a symbol.

    The conversion to ONNX takes plain symbols only. Raises CompileError if torch.export cannot trace the program again.
    """
    sizes = [size for value in _inputs_of(program) if isinstance(value, torch.Tensor) for size in value.shape]
    derived = [s for s in sizes if isinstance(s, torch.SymInt) and not s.node.expr.is_Symbol]
    if not derived or program.example_inputs is None:
        return program
    shapes = [
        {axis: Dim.DYNAMIC for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}
        if isinstance(value, torch.Tensor)
        else None
        for value in _inputs_of(program)
    ]
    module = program.module(check_guards=False)
    _remove_detach(module)
    arguments, named = _pytree.tree_unflatten(shapes, program.call_spec.in_spec)
    dynamic = inspect.signature(module.forward).bind(*arguments, **named).arguments
    try:
        with silence_libraries():
            return torch.export.export(module, *program.example_inputs, dynamic_shapes=dynamic)
    except Exception as error:  # torch raises many classes here
        raise CompileError(
            f"the program has a dimension of size {derived[0]}, and cannot be traced with one of any size: "
            f"{reason_of(error)}; export it with a plain Dim"
        ) from error


def _inputs_of(program: ExportedProgram) -> list[Any]:
    """Return the fake tensors and constants that stand for the inputs of a program."""
    names = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    return [
        names.get(spec.arg.name) for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT
    ]


def _tensor_outputs(program: ExportedProgram) -> list[OutputSpec]:
    specs = program.graph_signature.output_specs
    return [spec for spec in specs if spec.kind == OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument)]


def _remove_detach(module: torch.fx.GraphModule) -> None:
    """Remove the nodes that detach constants in place, which torch.export writes and cannot trace."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.detach_.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()

"""Wraps an exported program as a torch module, and prepares its outputs and dimensions for the conversion to ONNX."""

import inspect
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, OutputSpec, TensorArgument
from torch.utils import _pytree

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.torch_module.outputs import Output, flatten_outputs
from edgeexit.compiler.torch_module.program_sizes import batch_sizes_of, fake_inputs_of
from edgeexit.errors import CompileError


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


def with_plain_dimensions(program: ExportedProgram) -> ExportedProgram:
    """Return the program with a plain symbol for each dimension that is an expression, such as twice a symbol.

    The conversion to ONNX takes plain symbols only. Raises CompileError if torch.export cannot trace the program again.
    """
    sizes = [size for value in fake_inputs_of(program) if isinstance(value, torch.Tensor) for size in value.shape]
    derived = [s for s in sizes if isinstance(s, torch.SymInt) and not s.node.expr.is_Symbol]
    if not derived or program.example_inputs is None:
        return program
    shapes = [
        {axis: Dim.DYNAMIC for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}
        if isinstance(value, torch.Tensor)
        else None
        for value in fake_inputs_of(program)
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

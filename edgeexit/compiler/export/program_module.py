"""Wraps an exported program as a torch module, and names its inputs and outputs."""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree

from edgeexit.compiler.export.outputs import flatten_outputs


class ProgramModule(torch.nn.Module):
    """An exported program as a torch module that takes its inputs by position, in the graph's order."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
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


def output_names_of(program: ExportedProgram) -> tuple[str, ...]:
    """Return the names of the tensors that a program returns, as `flatten_outputs` names them."""
    returned = [
        spec.arg.value if isinstance(spec.arg, ConstantArgument) else object()  # flattened as one value
        for spec in program.graph_signature.output_specs
        if spec.kind == OutputKind.USER_OUTPUT
    ]
    return tuple(flatten_outputs(_pytree.tree_unflatten(returned, program.call_spec.out_spec)))

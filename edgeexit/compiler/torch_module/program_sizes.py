"""Finds the batch sizes and the sizes of symbolic dimensions that an exported program takes."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.samples import DEFAULT_DIMENSION_SIZE

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


def batch_sizes_of(program: ExportedProgram) -> BatchSizes:
    """Return the batch sizes that a program takes, from the bounds of the first dimension of its inputs."""
    for value in fake_inputs_of(program):
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
    tensors = [value for value in fake_inputs_of(program) if isinstance(value, torch.Tensor)]
    for value, spec in zip(tensors, inputs, strict=False):
        for size, name in zip(value.shape[1:], spec.shape[1:], strict=False):
            if isinstance(size, torch.SymInt) and isinstance(name, str):
                sizes.setdefault(name, _default_size(program, size))
    return sizes


def fake_inputs_of(program: ExportedProgram) -> list[Any]:
    """Return the fake tensors and constants that stand for the inputs of a program."""
    names = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    return [
        names.get(spec.arg.name) for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT
    ]


def _default_size(program: ExportedProgram, size: torch.SymInt) -> int:
    """Return the size of a dimension whose symbols have the default size, or the nearest within their bounds."""
    expression = size.node.expr
    chosen = dict.fromkeys(expression.free_symbols, DEFAULT_DIMENSION_SIZE)
    for symbol in chosen:
        bounds = program.range_constraints.get(symbol)
        if bounds is not None:
            chosen[symbol] = min(max(DEFAULT_DIMENSION_SIZE, bounds.lower), bounds.upper)
    return int(expression.subs(chosen))

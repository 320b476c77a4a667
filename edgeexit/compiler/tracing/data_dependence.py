"""Finds out whether a trace of forward would be wrong for other data, because its branches and numbers are fixed."""

import time
from collections.abc import Sequence
from typing import Final

import torch

from edgeexit.compiler.torch_module.exit_module import without_prefix
from edgeexit.compiler.tracing.changed_numbers import UNCHANGED, changes
from edgeexit.compiler.tracing.forward_numbers import collect_numbers
from edgeexit.compiler.tracing.observed_run import run_observed
from edgeexit.compiler.tracing.trace_errors import CHANGES_BUFFER, CONVERTS, UnsafeForwardError, at

_MIN_SECONDS: Final = 10.0
_MAX_SLOWDOWN: Final = 20.0
"""A run with changed numbers may take this many times the seconds of the first run; a loop may wait for a number."""


def check_data_dependence(module: torch.nn.Module, tensors: Sequence[torch.Tensor]) -> None:
    """Raise UnsafeForwardError if the path that forward takes, or a number that its outputs use, depends on the data.

    Forward is run without tracing. A tensor depends on the data if an operator computed it from an input, or wrote such
    a value into its storage. A branch on such a tensor is an error. The conversion of such a tensor to a number or an
    array is an error if it influences an output: forward is run again with changed numbers, and must return the same.

    Args:
        module: a module that returns a tuple of tensors.
        tensors: its inputs.

    """
    started = time.monotonic()
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with collect_numbers(module) as numbers:
        expected, reads = run_observed(module, tensors, UNCHANGED, seconds=None)
    for name, buffer in module.named_buffers():
        if name in buffers and not _equal([buffer], [buffers[name]]):
            raise UnsafeForwardError(CHANGES_BUFFER.format(without_prefix(name)))
    if not reads:
        return
    seconds = max(_MIN_SECONDS, _MAX_SLOWDOWN * (time.monotonic() - started))
    # The last run, without changes, finds changed numbers that forward has stored.
    for change in (*changes((tensor.shape for tensor in tensors), numbers), UNCHANGED):
        try:
            found, _ = run_observed(module, tensors, change, seconds=seconds)
        except Exception as error:  # a changed number may make the user's forward raise anything
            raise UnsafeForwardError(CONVERTS.format(at(reads[0]))) from error
        if not _equal(found, expected):
            raise UnsafeForwardError(CONVERTS.format(at(reads[0])))


def _equal(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return len(found) == len(expected) and all(
        one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
        for one, other in zip(found, expected, strict=True)
    )

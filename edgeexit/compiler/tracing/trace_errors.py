"""Describes the errors of torch's exporters in one line, with the place in the user's code."""

from collections.abc import Callable
from pathlib import Path
from traceback import FrameSummary
from typing import Any, Final, TypeVar

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.nn.utils.rnn import PackedSequence

from edgeexit.compiler.error_text import cause_of, place_in_stack_trace, place_in_user_code, place_of, reason_of
from edgeexit.errors import CompileError

_T = TypeVar("_T")

TORCH: Final = Path(torch.__file__).parent
"""Folder of torch's code, which is not user code."""
BRANCHES: Final = "forward branches on its data{}; return every exit and let the policy decide"
CONVERTS: Final = "forward converts its data to a number{}; read sizes from shapes, and compute with tensors"
CHANGES_BUFFER: Final = (
    "forward changes the buffer '{}', but a stage has no state; change buffers in training mode only"
)
_BRANCH_ERROR: Final = "Could not guard on"  # the other message is "Could not extract specialized integer from"
_STRICT_BRANCH_ERROR: Final = "Data-dependent branching"
_SPECIALISED: Final = "specialized it to be a constant"


class UnsafeForwardError(CompileError):
    """A trace of forward would be wrong for other data, whichever exporter makes it."""


def at(place: str | None) -> str:
    """Return ` at file.py:line`, or nothing for None."""
    return "" if place is None else f" at {place}"


def place_of_node(node: torch.fx.Node | None) -> str | None:
    """Return `file.py:line` of the user code that a node was traced from, or None if it is not known."""
    trace = None if node is None else node.meta.get("stack_trace")
    return None if trace is None else place_in_stack_trace(trace, library=TORCH)


def place_of_guard(environment: ShapeEnv, symbol: Any = None) -> str | None:
    """Return `file.py:line` of the first user code that makes torch.export assume something about a size.

    Without a symbol, of the first that assumes an equality.
    """
    for guard in environment.guards:
        is_meant = getattr(guard.expr, "rel_op", None) == "==" if symbol is None else symbol in guard.expr.free_symbols
        for frame in (guard.sloc.maybe_user_loc, guard.sloc.framework_loc) if is_meant else ():
            if isinstance(frame, FrameSummary) and (
                place := place_of(frame.filename, frame.lineno or 0, library=TORCH)
            ):
                return place
    return None


def trace_failure(error: BaseException) -> str:
    """Describe an error of torch.export."""
    text = str(error)
    if _SPECIALISED in text:
        line = next(line for line in text.splitlines() if _SPECIALISED in line)
        environment = _innermost(error, ShapeEnv)
        place = None if environment is None else place_of_guard(environment)
        return (
            f"forward fixes the size of a dynamic dimension{at(place)} ({line.strip(' -').split('. ')[0]}); "
            "read sizes from x.shape instead of using constants, write size // 2 instead of int(size / 2), or give "
            "that dimension as a number"
        )
    found = at(place_in_user_code(error, library=TORCH) or place_in_stack_trace(text, library=TORCH))
    if _STRICT_BRANCH_ERROR in text:
        return BRANCHES.format(found)
    if _innermost(error, PackedSequence) is not None:
        return (
            f"forward runs a recurrent layer on a packed sequence{found}; pad its output again, or run it on the "
            "padded tensor and select the last step of each sample"
        )
    if isinstance(error, GuardOnDataDependentSymNode):
        return (BRANCHES if _BRANCH_ERROR in text else CONVERTS).format(found)
    return f"forward cannot be traced by torch.export{found}: {reason_of(error)}"


def conversion_failure(error: BaseException, *, opset: int) -> str:
    """Describe an error of the conversion of a program to ONNX, and name the operator that is not supported."""
    node = _node_of(error)
    found = at(place_of_node(node))
    name = "" if node is None or isinstance(node.target, str) else f" ({node.target})"
    return f"the model cannot be converted to ONNX opset {opset}{found}{name}: {reason_of(cause_of(error))}"


def _node_of(error: BaseException) -> torch.fx.Node | None:
    """Return the node that the exporter handled when it failed."""
    return _innermost(error, torch.fx.Node, lambda node: node.op == "call_function")


def _innermost(error: BaseException, kind: type[_T], is_meant: Callable[[_T], bool] = lambda _: True) -> _T | None:
    """Return the object of a class in the innermost frame of an error, or of its causes, that has one as a variable."""
    found: _T | None = None
    current: BaseException | None = error
    while current is not None:
        frame = current.__traceback__
        while frame is not None:
            values = [
                value for value in frame.tb_frame.f_locals.values() if isinstance(value, kind) and is_meant(value)
            ]
            found = values[-1] if values else found
            frame = frame.tb_next
        current = current.__cause__ or current.__context__
    return found

"""Describes the errors of torch's exporters in one line, with the place in the user's code."""

from pathlib import Path
from typing import Final

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from edgeexit.compiler.error_text import cause_of, place_in_stack_trace, place_in_user_code, reason_of

TORCH: Final = Path(torch.__file__).parent
"""Folder of torch's code, which is not user code."""
BRANCHES: Final = "forward branches on its data{}; return every exit and let the policy decide"
CONVERTS: Final = "forward converts its data to a number{}; read sizes from shapes, and compute with tensors"
_BRANCH_ERROR: Final = "Could not guard on"  # the other message is "Could not extract specialized integer from"
_SPECIALISED: Final = "specialized it to be a constant"


def at(place: str | None) -> str:
    """Return ` at file.py:line`, or nothing for None."""
    return "" if place is None else f" at {place}"


def place_of_node(node: torch.fx.Node | None) -> str | None:
    """Return `file.py:line` of the user code that a node was traced from, or None if it is not known."""
    trace = None if node is None else node.meta.get("stack_trace")
    return None if trace is None else place_in_stack_trace(trace, library=TORCH)


def trace_failure(error: BaseException) -> str:
    """Describe an error of torch.export."""
    text = str(error)
    if _SPECIALISED in text:
        line = next(line for line in text.splitlines() if _SPECIALISED in line)
        place = place_in_stack_trace(text, library=TORCH)
        return (
            f"forward fixes the size of a dynamic dimension{at(place)} ({line.strip(' -').split('. ')[0]}); "
            "read sizes from x.shape instead of using constants, or give that dimension as a number"
        )
    found = at(place_in_user_code(error, library=TORCH))
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
    """Return the node that the exporter handled when it failed: the innermost one in the frames of the error."""
    found = None
    current: BaseException | None = error
    while current is not None:
        frame = current.__traceback__
        while frame is not None:
            nodes = [value for value in frame.tb_frame.f_locals.values() if isinstance(value, torch.fx.Node)]
            calls = [node for node in nodes if node.op == "call_function"]
            found = calls[-1] if calls else found
            frame = frame.tb_next
        current = current.__cause__ or current.__context__
    return found

"""Errors of libraries become one line, with the place in the user's code."""

import inspect
from pathlib import Path

import pytest
import torch

from edgeexit.compiler.error_text import (
    cause_of,
    place_in_stack_trace,
    place_in_user_code,
    place_of,
    place_of_caller,
    reason_of,
)

LIBRARY = Path(torch.__file__).parent


def test_the_reason_is_the_class_and_the_first_line_of_the_message():
    assert reason_of(ValueError("\n  first line \nsecond line")) == "ValueError: first line"
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(ValueError("x" * 300)) == f"ValueError: {'x' * 240}..."


def test_what_the_caller_names_already_does_not_displace_the_reason():
    path = f"/{'long/' * 60}model.onnx"
    error = RuntimeError(f"Load model from {path} failed: Sin does not take int16")
    assert reason_of(error, without=f"Load model from {path} failed: ") == "RuntimeError: Sin does not take int16"


def test_the_cause_is_the_first_error_of_the_chain():
    first = ValueError("first")
    second = RuntimeError("second")
    second.__cause__ = first
    third = TypeError("third")
    third.__cause__ = second
    assert cause_of(third) is first


class _Failing(torch.nn.Module):
    def forward(self, x):
        raise ValueError("in forward")


def test_the_place_is_the_line_that_the_library_called():
    with pytest.raises(ValueError, match="in forward") as raised:
        _Failing()(torch.zeros(1))
    place = place_in_user_code(raised.value, library=LIBRARY)
    assert place is not None
    file, _, line = place.partition(":")
    assert file == "test_error_text.py"
    assert Path(__file__).read_text().splitlines()[int(line) - 1].strip() == 'raise ValueError("in forward")'


def test_without_a_call_from_the_library_the_place_is_none():
    with pytest.raises(ValueError, match="in forward") as raised:
        _Failing.forward(None, None)
    assert place_in_user_code(raised.value, library=LIBRARY) is None


def test_the_place_in_a_stack_trace_is_the_innermost_line_of_user_code():
    inner = f'File "{LIBRARY}/nn/functional.py", line 7, in linear\n    return\n'
    outer = f'File "{__file__}", line 3, in forward\n    x = block(x)\n  File "{__file__}", line 5, in block\n    y\n  '
    assert place_in_stack_trace(outer + inner, library=LIBRARY) == "test_error_text.py:5"
    assert place_in_stack_trace(inner, library=LIBRARY) is None
    assert place_in_stack_trace("", library=LIBRARY) is None


def test_the_place_of_the_caller_is_the_line_that_runs():
    frame = inspect.currentframe()
    assert place_of_caller(library=LIBRARY) == f"test_error_text.py:{frame.f_lineno}"
    assert place_of(__file__, 4, library=LIBRARY) == "test_error_text.py:4"
    assert place_of(str(LIBRARY / "__init__.py"), 4, library=LIBRARY) is None

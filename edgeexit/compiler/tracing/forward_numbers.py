"""Collects the numbers that forward may compare a number with: constants, attributes and arguments of its code."""

import contextlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any, Final

import torch

from edgeexit.compiler.tracing.trace_errors import TORCH

_LIBRARIES: Final = (str(TORCH), sysconfig.get_paths()["stdlib"], "<frozen")
_MAX_NUMBERS: Final = 40
_DIGITS: Final = range(10)
_MAX_DEPTH: Final = 2


@contextlib.contextmanager
def collect_numbers(module: torch.nn.Module) -> Iterator[list[float]]:
    """Yield a list that has the numbers of all user code that runs in this thread, at the end of the block.

    These are the constants of the code, and the attributes of submodules and the variables that it names. The list is
    sorted, and has the number between each two neighbours, too.
    """
    frames: dict[CodeType, Mapping[str, Any]] = {}
    found: list[float] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code not in frames and not code.co_filename.startswith(_LIBRARIES):
            frames[code] = {**frame.f_globals, **frame.f_locals}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(before)
        numbers: dict[float, None] = {}
        for code, variables in frames.items():
            numbers |= dict.fromkeys(_numbers_in(code.co_consts))
            names = sorted({*code.co_names, *code.co_varnames, *code.co_freevars})
            numbers |= dict.fromkeys(_numbers_in([variables[name] for name in names if name in variables]))
            numbers |= dict.fromkeys(_attributes(module, names))
        some = sorted({*list(numbers)[:_MAX_NUMBERS], *_DIGITS})
        found += sorted({*some, *((one + other) / 2 for one, other in pairwise(some))})


def _attributes(module: torch.nn.Module, names: Sequence[str]) -> Iterator[float]:
    """Yield the numbers in attributes of submodules and of their configurations that have one of the names."""
    for each in module.modules():
        values = [inspect.getattr_static(each, name, None) for name in names]
        yield from _numbers_in(values)
        for value in values:
            inner = {} if isinstance(value, type) else getattr(value, "__dict__", {})
            yield from _numbers_in([inner[name] for name in names if name in inner])


def _numbers_in(value: Any, depth: int = 0) -> Iterator[float]:
    """Yield the numbers in a value, and in the containers and attributes in it."""
    if isinstance(value, bool | bytes | torch.Tensor | CodeType) or depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            yield from _numbers_in(float(value))
    elif isinstance(value, int | float):
        if abs(value) < 2**31:  # not NaN
            yield value
    elif isinstance(value, Mapping):
        yield from _numbers_in([*value, *value.values()], depth)
    elif isinstance(value, tuple | list | set | frozenset):
        for each in value:
            yield from _numbers_in(each, depth + 1)

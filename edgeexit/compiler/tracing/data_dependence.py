"""Finds out whether a trace of forward would be wrong for other data, because its branches and numbers are fixed."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edgeexit.compiler.error_text import place_of_caller
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.torch_module.evaluation import in_eval_mode
from edgeexit.compiler.torch_module.exit_module import without_prefix
from edgeexit.compiler.tracing.changed_numbers import UNCHANGED, Change, changes
from edgeexit.compiler.tracing.trace_errors import BRANCHES, CHANGES_BUFFER, CONVERTS, TORCH, UnsafeForwardError, at

_Tensor: Final = torch.Tensor
_BRANCHES: Final = (
    _Tensor.__bool__,
    _Tensor.__contains__,
    _Tensor.is_nonzero,
    torch.is_nonzero,
    _Tensor.equal,
    torch.equal,
    _Tensor.allclose,
    torch.allclose,
)
"""Functions that return a bool which depends on the values of a tensor."""
_NUMBERS: Final = (
    _Tensor.__array__,
    _Tensor.__complex__,
    _Tensor.__float__,
    _Tensor.__index__,
    _Tensor.__int__,
    _Tensor.item,
    _Tensor.numpy,
    _Tensor.tolist,
)
"""Functions that return the values of a tensor as Python numbers or as an array."""
_SIZES: Final = (
    _Tensor.__len__,
    _Tensor.nelement,
    _Tensor.numel,
    _Tensor.shape.__get__,  # type: ignore[attr-defined]
    _Tensor.size,
    torch.numel,
)
"""Functions that return a size of a tensor."""
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
    expected, reads = _run(module, tensors, UNCHANGED, seconds=None)
    for name, buffer in module.named_buffers():
        if name in buffers and not _equal([buffer], [buffers[name]]):
            raise UnsafeForwardError(CHANGES_BUFFER.format(without_prefix(name)))
    if not reads:
        return
    seconds = max(_MIN_SECONDS, _MAX_SLOWDOWN * (time.monotonic() - started))
    for change in (
        *changes(tensor.shape for tensor in tensors),
        UNCHANGED,
    ):  # the last run finds changed numbers that forward has stored
        try:
            found, _ = _run(module, tensors, change, seconds=seconds)
        except Exception as error:  # a changed number may make the user's forward raise anything
            raise UnsafeForwardError(CONVERTS.format(at(reads[0]))) from error
        if not _equal(found, expected):
            raise UnsafeForwardError(CONVERTS.format(at(reads[0])))


def _run(
    module: torch.nn.Module, tensors: Sequence[torch.Tensor], change: Change, *, seconds: float | None
) -> tuple[Sequence[torch.Tensor], list[str | None]]:
    """Run forward; return its outputs, and the places at which it converts data to numbers, which `change` changes."""
    dependence = _Dependence(tensors)
    reads = _ReadObserver(dependence, change, deadline=None if seconds is None else time.monotonic() + seconds)
    with (
        in_eval_mode(module),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        silence_libraries(),
        reads,
        _OperatorObserver(dependence),
    ):
        torch.manual_seed(0)
        outputs = module(*tensors)
    return outputs, reads.places


def _equal(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return len(found) == len(expected) and all(
        one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
        for one, other in zip(found, expected, strict=True)
    )


class _Dependence:
    """The storages whose values depend on the inputs, and those whose sizes do."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        self._values: dict[int, StorageWeakRef] = {}
        self._sizes: dict[int, StorageWeakRef] = {}
        for tensor in inputs:
            self.add(tensor)

    def add(self, tensor: torch.Tensor, *, size: bool = False) -> None:
        """Mark a tensor; with `size`, its size also depends on the data."""
        if tensor.layout != torch.strided:
            return
        storage = _reference(tensor)
        self._values[storage.cdata] = storage  # an expired reference still reserves the address
        if size:
            self._sizes[storage.cdata] = storage

    def has_value(self, tensor: Any) -> bool:
        return self._has(self._values, tensor)

    def has_size(self, tensor: Any) -> bool:
        return self._has(self._sizes, tensor)

    @staticmethod
    def _has(marked: Mapping[int, StorageWeakRef], tensor: Any) -> bool:
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            return False
        return _reference(tensor).cdata in marked


def _reference(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


class _OperatorObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Marks what operators compute from marked tensors."""

    def __init__(self, dependence: _Dependence) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dependence = dependence

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the operator, and mark its outputs and the arguments that it writes to."""
        kwargs = kwargs or {}
        given = [each for each in _pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        depends = any(map(self._dependence.has_value, given))
        sized = any(map(self._dependence.has_size, given)) or (
            depends and torch.Tag.dynamic_output_shape in getattr(func, "tags", ())
        )
        outputs = func(*args, **kwargs)
        if depends:
            for output in _pytree.tree_leaves(outputs):
                if isinstance(output, torch.Tensor):
                    written = any(output is each for each in given)
                    self._dependence.add(output, size=sized and output.ndim > 0 and not written)
            parameters = func._schema.arguments  # noqa: SLF001 - torch has no public name for it
            for argument, value in zip(parameters, args, strict=False):
                if argument.is_write and isinstance(value, torch.Tensor):
                    self._dependence.add(value)
        return outputs


class _ReadObserver(TorchFunctionMode):
    """Raises UnsafeForwardError for branches on marked tensors; collects and changes numbers read from them."""

    def __init__(self, dependence: _Dependence, change: Change, *, deadline: float | None) -> None:
        super().__init__()
        self.places: list[str | None] = []
        self._dependence = dependence
        self._change = change
        self._deadline = deadline

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, unless it is a branch on data."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimeoutError("forward does not end with changed numbers")
        if func in _BRANCHES and any(map(self._dependence.has_value, args)):
            raise UnsafeForwardError(BRANCHES.format(at(place_of_caller(library=TORCH))))
        if func in _SIZES and any(map(self._dependence.has_size, args)):
            place = at(place_of_caller(library=TORCH))
            raise UnsafeForwardError(f"forward reads a size that depends on its data{place}; use masks of a fixed size")
        result = func(*args, **(kwargs or {}))
        if func not in _NUMBERS or not self._dependence.has_value(args[0]):
            return result
        self.places.append(place_of_caller(library=TORCH))
        return self._change(result)

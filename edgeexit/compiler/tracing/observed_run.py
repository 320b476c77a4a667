"""Runs forward without tracing, and observes which tensors depend on its inputs and where it reads their values."""

import concurrent.futures
import contextlib
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edgeexit.compiler.error_text import place_of_caller, reason_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.torch_module.evaluation import in_eval_mode, without_fused_transformers
from edgeexit.compiler.tracing.changed_numbers import Change
from edgeexit.compiler.tracing.trace_errors import BRANCHES, CONVERTS, TORCH, UnsafeForwardError, at
from edgeexit.errors import CompileError

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
_MEMORY: Final = (
    _Tensor.__dlpack__,
    _Tensor.__reduce_ex__,
    _Tensor.apply_,
    _Tensor.data_ptr,
    _Tensor.map2_,
    _Tensor.map_,
    _Tensor.storage,
    _Tensor.untyped_storage,
)
"""Functions that read or write the memory of a tensor without an operator."""
_COPIES: Final = (_Tensor.new_tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, torch.tensor)
"""Functions that make a tensor of numbers, which is a constant in a trace, also where a number is a tensor."""
_INDEXING: Final = (_Tensor.__getitem__, _Tensor.__setitem__)
_SIZES: Final = (
    _Tensor.__len__,
    _Tensor.nbytes.__get__,  # type: ignore[attr-defined]
    _Tensor.nelement,
    _Tensor.numel,
    _Tensor.shape.__get__,  # type: ignore[attr-defined]
    _Tensor.size,
    _Tensor.stride,
    torch.numel,
)
"""Functions that return a size of a tensor."""
_SIZED: Final = "forward reads a size that depends on its data{}; use masks of a fixed size"
_THREADS: Final = "forward starts a thread{}, whose operators TorchScript does not record; call the layers in turn"
_SPARSE: Final = "forward makes a sparse tensor of its data{}; keep it dense"
_MASK_DTYPES: Final = {torch.bool, torch.uint8}


def run_observed(
    module: torch.nn.Module, tensors: Sequence[torch.Tensor], change: Change, *, seconds: float | None
) -> tuple[Sequence[torch.Tensor], list[str | None]]:
    """Run forward on copies of tensors; return its outputs, and the places at which it reads numbers from its data.

    Args:
        module: a module that returns a tuple of tensors.
        tensors: its inputs.
        change: changes each number that forward reads.
        seconds: time limit; None: no limit.

    Raises UnsafeForwardError for a branch on data, also if forward catches it, and CompileError if forward fails.

    """
    tensors = [tensor.clone() for tensor in tensors]  # forward may change its inputs
    reads = _Reads(change, None if seconds is None else time.monotonic() + seconds)
    dependence = _Dependence(tensors)
    try:
        with (
            in_eval_mode(module),
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
            without_fused_transformers(),
            silence_libraries(),
            _refuse_threads(reads),
            _ReadObserver(dependence, reads),
            _OperatorObserver(dependence, reads),
        ):
            torch.manual_seed(0)
            outputs = module(*tensors)
    except Exception as error:
        if reads.error is not None:
            raise reads.error from error
        if reads.places:  # as a write to the memory of a tensor does
            raise UnsafeForwardError(CONVERTS.format(at(reads.places[-1]))) from error
        raise CompileError(f"forward fails while its operators are observed: {reason_of(error)}") from error
    if reads.error is not None:
        raise reads.error
    return outputs, reads.places


class _Reads:
    """What forward reads from its data: the numbers, which are changed, and the first error, which it may catch."""

    def __init__(self, change: Change, deadline: float | None) -> None:
        self.places: list[str | None] = []
        self.error: UnsafeForwardError | None = None
        self.is_known = False
        """The function that runs now may read numbers: they are changed at its end, or TorchScript records them."""
        self._change = change
        self._deadline = deadline

    def refuse(self, text: str) -> NoReturn:
        """Raise an error, and keep it; the text has a place to insert where forward is now."""
        error = UnsafeForwardError(text.format(at(place_of_caller(library=TORCH))))
        self.error = self.error or error
        raise error

    def changed(self, value: Any) -> Any:
        """Return a number or array that forward reads, changed."""
        self.places.append(place_of_caller(library=TORCH))
        return self._change(value)

    def check_time(self) -> None:
        """Raise TimeoutError if a changed number makes forward endless."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimeoutError("forward does not end with changed numbers")


@contextlib.contextmanager
def _refuse_threads(reads: _Reads) -> Iterator[None]:
    """Refuse that this thread starts others, or gives them work."""
    own = threading.get_ident()
    methods = [(threading.Thread, "start"), (concurrent.futures.ThreadPoolExecutor, "submit")]
    originals = [getattr(owner, name) for owner, name in methods]

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == own:
                reads.refuse(_THREADS)
            return original(*args, **kwargs)

        return call

    for (owner, name), original in zip(methods, originals, strict=True):
        setattr(owner, name, watched(original))
    try:
        yield
    finally:
        for (owner, name), original in zip(methods, originals, strict=True):
            setattr(owner, name, original)


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
    with torch._C.DisableTorchFunction():  # noqa: SLF001 - else the call would count as one of forward
        return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


class _OperatorObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Marks what operators compute from marked tensors, and changes the numbers that other functions read from them."""

    def __init__(self, dependence: _Dependence, reads: _Reads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dependence = dependence
        self._reads = reads

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the operator, and mark its outputs and the arguments that it writes to."""
        kwargs = kwargs or {}
        given = [each for each in _pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        depends = any(map(self._dependence.has_value, given))
        if depends and func is torch.ops.aten.equal.default:
            self._reads.refuse(BRANCHES)
        sized = any(map(self._dependence.has_size, given)) or (depends and _has_dynamic_size(func, args))
        outputs = func(*args, **kwargs)
        if not depends:
            return outputs
        if func is torch.ops.aten._local_scalar_dense.default:  # noqa: SLF001 - the operator behind `item`
            return outputs if self._reads.is_known else self._reads.changed(outputs)
        for output in _pytree.tree_leaves(outputs):
            if isinstance(output, torch.Tensor):
                if output.layout != torch.strided:
                    self._reads.refuse(_SPARSE)
                written = any(output is each for each in given)
                self._dependence.add(output, size=sized and output.ndim > 0 and not written)
        parameters = func._schema.arguments  # noqa: SLF001 - torch has no public name for it
        for argument, value in zip(parameters, args, strict=False):
            if argument.is_write and isinstance(value, torch.Tensor):
                self._dependence.add(value)
        return outputs


def _has_dynamic_size(func: Any, args: tuple[Any, ...]) -> bool:
    """Return True if the size of an operator's output depends on the values of its inputs."""
    if func is torch.ops.aten.index.Tensor:
        return any(index is not None and index.dtype in _MASK_DTYPES for index in args[1])
    return torch.Tag.dynamic_output_shape in getattr(func, "tags", ())


class _ReadObserver(TorchFunctionMode):
    """Raises UnsafeForwardError for branches on marked tensors; changes the numbers that are read from them."""

    def __init__(self, dependence: _Dependence, reads: _Reads) -> None:
        super().__init__()
        self._dependence = dependence
        self._reads = reads

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, unless it is a branch on data."""
        self._reads.check_time()
        if func in _BRANCHES and any(map(self._dependence.has_value, args)):
            self._reads.refuse(BRANCHES)
        if func in _MEMORY and self._dependence.has_value(args[0]):
            self._reads.refuse(CONVERTS)
        if func in _COPIES or func in _INDEXING:
            self._check_lists(args)
        if func in _SIZES and any(map(self._dependence.has_size, args)):
            self._reads.refuse(_SIZED)
        if func not in _NUMBERS or not self._dependence.has_value(args[0]):
            # The tracer records tensors that are numbers in the arguments of operators, which are not Python functions.
            result = self._call(func, args, kwargs, is_known=not isinstance(func, types.FunctionType))
            if func in _COPIES and any(map(self._dependence.has_value, args)) and result is not args[0]:
                self._reads.refuse(CONVERTS)
            if type(result) in {tuple, list} and any(map(self._dependence.has_size, args)):
                self._reads.refuse(_SIZED)  # as many tensors as the size, as unbind and split return them
            return result
        return self._reads.changed(self._call(func, args, kwargs, is_known=True))

    def _call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, *, is_known: bool
    ) -> Any:
        self._reads.is_known, before = is_known, self._reads.is_known
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._reads.is_known = before

    def _check_lists(self, args: Any) -> None:
        """Refuse lists of marked tensors, which become a constant tensor of their values."""
        for each in args:
            if isinstance(each, list) and any(map(self._dependence.has_value, _pytree.tree_leaves(each))):
                self._reads.refuse(CONVERTS)
            if isinstance(each, tuple):
                self._check_lists(each)

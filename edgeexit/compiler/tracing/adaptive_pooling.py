"""Computes adaptive pooling with slices, or with a kernel, where torch translates it to ONNX incompletely."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgeexit.errors import CompileError

_Pool = Callable[..., Any]


class StaticPooling(TorchFunctionMode):
    """While active, adaptive average pooling uses the sizes of its input as constants.

    The TorchScript exporter refuses it where the trace does not say the size of the input, for example behind slices
    with a computed length. Pooling to one value per channel stays as it is, because it needs no size.
    """

    def __torch_function__(
        self, func: _Pool, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, or compute its result with other operators."""
        count = _AXES.get(func)
        if count is None:
            return func(*args, **(kwargs or {}))
        return _with_static_sizes(func, count, *args, **(kwargs or {}))


def _with_static_sizes(func: _Pool, axes: int, input: torch.Tensor, output_size: Any) -> torch.Tensor:  # noqa: A002 - torch's name
    given = [int(size) for size in input.shape[-axes:]]  # sizes are tensors in a trace
    wanted = [output_size] * axes if isinstance(output_size, int) else list(output_size)
    counts = [size if count is None else int(count) for size, count in zip(given, wanted, strict=True)]
    if counts == [1] * axes:
        pooled: torch.Tensor = func(input, output_size)
        return pooled
    return _pool(input, given, counts, torch.mean, _AVERAGE)


def adaptive_max_pool(tensor: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maxima of `sizes` cells along the last axes, and unusable indices."""
    pooled = _pool(tensor, tensor.shape[tensor.ndim - len(sizes) :], sizes, torch.amax, _MAXIMUM)
    return pooled, torch.zeros_like(pooled, dtype=torch.int64)


def adaptive_avg_pool(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return the means of `sizes` cells along the last axes."""
    return _pool(tensor, tensor.shape[tensor.ndim - len(sizes) :], sizes, torch.mean, _AVERAGE)


def _pool(
    tensor: torch.Tensor, given: Sequence[int], counts: Sequence[int], reduce: _Pool, pools: Sequence[_Pool]
) -> torch.Tensor:
    """Divide the last axes, of sizes `given`, into `counts` cells and reduce each cell.

    If the counts divide the sizes, this is a pooling with a kernel. Otherwise cell i of n along an axis of size S is
    [floor(i S / n), ceil((i + 1) S / n)), as in torch, and the axes are reduced one after the other.
    """
    for size, count in zip(given, counts, strict=True):
        if not isinstance(size, int) and count != 1:
            raise CompileError(f"adaptive pooling to {count} needs a known size; give that dimension as a number")
    if all(isinstance(size, int) and size % count == 0 for size, count in zip(given, counts, strict=True)):
        kernel = [size // count for size, count in zip(given, counts, strict=True)]
        pooled: torch.Tensor = pools[len(counts) - 1](tensor, kernel, kernel)
        return pooled
    for axis, (size, count) in enumerate(zip(given, counts, strict=True), start=tensor.ndim - len(counts)):
        if count == 1:
            cells = [tensor]
        else:
            edges = [(index * size // count, -(-(index + 1) * size // count)) for index in range(count)]
            cells = [tensor.narrow(axis, start, end - start) for start, end in edges]
        tensor = torch.cat([reduce(cell, [axis], keepdim=True) for cell in cells], axis)
    return tensor


_AVERAGE: Final = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
_MAXIMUM: Final = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AXES: Final[Mapping[Any, int]] = {
    torch.adaptive_avg_pool1d: 1,
    functional.adaptive_avg_pool1d: 1,
    functional.adaptive_avg_pool2d: 2,
    functional.adaptive_avg_pool3d: 3,
}
"""Function -> number of axes that it pools."""

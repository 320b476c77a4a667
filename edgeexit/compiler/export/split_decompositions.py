"""Replaces splits of a dynamic dimension, which torch cannot translate to ONNX, by slices."""

from typing import Any, Final

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

_ATEN: Final = torch.ops.aten


def is_dynamic_split(node: torch.fx.Node) -> bool:
    """Return True if the split dimension of a `split` or `chunk` has no static size."""
    tensor = node.args[0]
    value = tensor.meta.get("val") if isinstance(tensor, torch.fx.Node) else None
    given = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)  # noqa: PLR2004 - (tensor, size, dim)
    return isinstance(value, torch.Tensor) and isinstance(given, int) and not isinstance(value.shape[given], int)


def _split(tensor: torch.Tensor, split_size: Any, dim: int = 0) -> Any:
    """Return slices of `split_size` elements, if they divide the dimension evenly at any size."""
    length = tensor.shape[dim]
    if not statically_known_true(length % split_size == 0):
        return NotImplemented
    return _slices(tensor, split_size, int(length // split_size), dim)


def _chunk(tensor: torch.Tensor, chunks: int, dim: int = 0) -> list[torch.Tensor]:
    """Return `chunks` slices of equal sizes; the last one has the elements that are left."""
    return _slices(tensor, (tensor.shape[dim] + chunks - 1) // chunks, chunks, dim)


def _slices(tensor: torch.Tensor, size: Any, count: int, dim: int) -> list[torch.Tensor]:
    ends = [size * (index + 1) for index in range(count - 1)]
    pairs = zip([0, *ends], [*ends, None], strict=True)
    return [_ATEN.slice.Tensor(tensor, dim, start, end) for start, end in pairs]


SPLITS: Final = {_ATEN.chunk.default: _chunk, _ATEN.split.Tensor: _split}
"""ATen operator -> function that computes it with slices; for nodes that are `is_dynamic_split`."""

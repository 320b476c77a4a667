"""Replaces splits of a dynamic dimension, which torch cannot translate to ONNX, by slices."""

from typing import Any, Final

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

_ATEN: Final = torch.ops.aten


def is_dynamic_split(node: torch.fx.Node) -> bool:
    """Return True for a `split` or `chunk` of a dimension without a static size."""
    if node.target not in {_ATEN.chunk.default, _ATEN.split.Tensor}:
        return False
    tensor = node.args[0]
    value = tensor.meta.get("val") if isinstance(tensor, torch.fx.Node) else None
    given = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)  # noqa: PLR2004 - (tensor, size, dim)
    return isinstance(value, torch.Tensor) and isinstance(given, int) and not isinstance(value.shape[given], int)


def _split(tensor: torch.Tensor, split_size: Any, dim: int = 0) -> Any:
    """Return slices of `split_size` elements, if they divide the dimension evenly at any size."""
    length = tensor.shape[dim]
    if not statically_known_true(length % split_size == 0):
        return NotImplemented
    ends = [split_size * (index + 1) for index in range(int(length // split_size) - 1)]
    pairs = zip([0, *ends], [*ends, None], strict=True)
    return [_ATEN.slice.Tensor(tensor, dim, start, end) for start, end in pairs]


SPLITS: Final = {_ATEN.split.Tensor: _split}
"""ATen operator -> function that computes it with slices; torch itself turns `chunk` into `split`."""

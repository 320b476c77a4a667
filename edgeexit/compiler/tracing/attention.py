"""Translates scaled_dot_product_attention to ONNX, for any number of dimensions and any mask."""
# ruff: noqa: ARG001, FBT001, FBT002, PLR0917 - the signature is that of the operator

import math
from typing import Any, Final

import onnx_ir as ir
from onnxscript import opset18

from edgeexit.errors import CompileError

_op: Any = opset18  # its types do not know values under construction
_HEADS: Final = -3
"""Axis of the heads in a query, key or value [..., heads, length, size]."""


def translate_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Add the nodes of scaled_dot_product_attention to the graph under construction, and return its output.

    torch's own translation takes 4 dimensions only and averages the values of a query whose mask is False everywhere;
    torch returns 0 for it, and so do these nodes.

    Args:
        query: [..., L, E].
        key: [..., S, E].
        value: [..., S, V].
        attn_mask: bool or float, broadcast to [..., L, S].
        dropout_p: ignored; a model is compiled in evaluation mode.
        is_causal: a query attends to the keys up to its own position.
        scale: of the scores; 1 / sqrt(E) by default.
        enable_gqa: the query may have a multiple of the heads of key and value.

    Raises CompileError for a query whose last dimension is not known.

    """
    rank = len(query.shape)
    if scale is None:
        size = query.shape[-1]
        if not isinstance(size, int):
            raise CompileError("the last dimension of an attention's query must be a number")
        scale = 1 / math.sqrt(size)
    if enable_gqa:
        key, value = (_repeat_heads(tensor, query.shape[_HEADS]) for tensor in (key, value))
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    scaled = _op.Mul(query, _op.Constant(value=ir.tensor(scale, dtype=query.dtype)))
    scores = _op.MatMul(scaled, _op.Transpose(key, perm=swapped))
    zero = _op.Constant(value=ir.tensor(0.0, dtype=query.dtype))
    if is_causal:
        lowest = _op.Constant(value=ir.tensor(query.dtype.min, dtype=query.dtype))
        scores = _op.Add(scores, _op.Where(_causal_mask(query, key), zero, lowest))
    if attn_mask is None:
        return _op.MatMul(_op.Softmax(scores, axis=-1), value)
    if attn_mask.dtype == ir.DataType.BOOL:
        lowest = _op.Constant(value=ir.tensor(query.dtype.min, dtype=query.dtype))
        added = _op.Where(attn_mask, zero, lowest)
        attends = _op.Cast(_op.ReduceMax(_op.Cast(attn_mask, to=ir.DataType.INT32), [-1]), to=ir.DataType.BOOL)
    else:
        added = attn_mask
        nothing = _op.Constant(value=ir.tensor(-math.inf, dtype=attn_mask.dtype))
        attends = _op.Greater(_op.ReduceMax(attn_mask, [-1]), nothing)
    weights = _op.Softmax(_op.Add(scores, added), axis=-1)
    return _op.Where(attends, _op.MatMul(weights, value), zero)


def _repeat_heads(tensor: Any, heads: int) -> Any:
    """Repeat each head of [..., heads / n, S, E] n times, as torch.repeat_interleave does."""
    *batch, own, _, size = tensor.shape
    if own == heads:
        return tensor
    repeated = _op.Expand(_op.Unsqueeze(tensor, [-3]), [1, heads // own, 1, 1])
    return _op.Reshape(repeated, [*(0 for _ in batch), heads, -1, size])


def _causal_mask(query: Any, key: Any) -> Any:
    """Return [L, S] bool: True where the key's position is at most the query's."""
    queries, keys = (_op.Range(0, _op.Squeeze(_op.Shape(tensor, start=-2, end=-1)), 1) for tensor in (query, key))
    return _op.GreaterOrEqual(_op.Unsqueeze(queries, [1]), keys)

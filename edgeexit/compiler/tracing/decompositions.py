"""Replaces ATen operators that torch translates to ONNX incompletely or not at all by others."""
# ruff: noqa: ARG001, FBT001, FBT002, PLR0917 - the signatures are those of the operators

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch.export import ExportedProgram
from torch.nn import functional

from edgeexit.compiler.tracing.adaptive_pooling import adaptive_avg_pool, adaptive_max_pool
from edgeexit.compiler.tracing.split_decompositions import SPLITS, is_dynamic_split
from edgeexit.compiler.tracing.trace_errors import at, place_of_node
from edgeexit.errors import CompileError

_ATEN: Final = torch.ops.aten
_POOLS: Final = (
    _ATEN.adaptive_max_pool1d.default,
    _ATEN.adaptive_max_pool2d.default,
    _ATEN.adaptive_max_pool3d.default,
)
_CONVOLUTIONS: Final = (_ATEN.conv1d.default, _ATEN.conv2d.default)
_GROUPS: Final = 6
"""Position of the number of groups among the arguments of a convolution."""
_DIRECT_DISTANCES: Final = 25
"""torch.cdist computes Euclidean distances from more vectors than this with a matrix product."""

Decomposition = Callable[..., Any]


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Return the program without the operators of `DECOMPOSITIONS`; the same program if it has none.

    Raises CompileError if forward uses the indices of adaptive max pooling.
    """
    nodes = list(_calls(program.graph_module))
    table = {op: function for op, function in DECOMPOSITIONS.items() if any(_applies(op, node) for node in nodes)}
    if not table:
        return program
    for node in nodes:
        if node.target in _POOLS and any(_takes_indices(user) for user in node.users):
            place = at(place_of_node(node))
            raise CompileError(f"forward uses the indices of adaptive max pooling{place}; use its values only")
        if node.target is _ATEN.view.default:  # a replaced operator may have other strides
            node.target = _ATEN.reshape.default
    program.graph_module.recompile()
    decomposed: ExportedProgram = program.run_decompositions(dict(table))
    return decomposed


def _calls(module: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    """Yield the nodes that call operators, also those in subgraphs."""
    for graph_module in module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            yield from (node for node in graph_module.graph.nodes if node.op == "call_function")


def _applies(op: Any, node: torch.fx.Node) -> bool:
    """Return True if the node is of the operator; for a convolution, also if its number of groups is computed."""
    if op in SPLITS:
        return is_dynamic_split(node)
    if node.target is not op:
        return False
    return op not in _CONVOLUTIONS or (len(node.args) > _GROUPS and not isinstance(node.args[_GROUPS], int))


def _takes_indices(user: torch.fx.Node) -> bool:
    return user.target is not operator.getitem or bool(user.args[1] == 1 and user.users)


def _cdist(left: torch.Tensor, right: torch.Tensor, p: float = 2.0, compute_mode: int | None = None) -> torch.Tensor:
    """Return the distances between the vectors of [..., P, M] and [..., R, M] as [..., P, R]; see torch.cdist."""
    counts = [size for size in (left.shape[-2], right.shape[-2]) if isinstance(size, int)]
    if p == 2 and compute_mode != 2 and any(count > _DIRECT_DISTANCES for count in counts):  # noqa: PLR2004
        squares = left.pow(2).sum(-1, keepdim=True) + right.pow(2).sum(-1).unsqueeze(-2)
        return (squares - 2 * left @ right.transpose(-1, -2)).clamp_min(0).sqrt()
    gaps = (left.unsqueeze(-2) - right.unsqueeze(-3)).abs()
    if p == 0:
        return (gaps != 0).to(left.dtype).sum(-1)
    if p == 1:
        return gaps.sum(-1)
    if p == 2:  # noqa: PLR2004
        return gaps.pow(2).sum(-1).sqrt()
    if p == math.inf:
        return gaps.amax(-1)
    return gaps.pow(p).sum(-1).pow(1 / p)


def _known_size(tensor: torch.Tensor, axis: int, what: str) -> int:
    size = tensor.shape[axis]
    if not isinstance(size, int):
        raise CompileError(f"{what} needs a known size; give that dimension as a number")
    return size


def _cumprod(tensor: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Multiply each element by those 1, 2, 4, ... places before it."""
    size = _known_size(tensor, dim, "torch.cumprod")
    product = tensor if dtype is None else tensor.to(dtype)
    for shift in _powers_below(size):
        later, earlier = product.narrow(dim, shift, size - shift), product.narrow(dim, 0, size - shift)
        product = torch.cat([product.narrow(dim, 0, shift), later * earlier], dim)
    return product


def _cumulative_extreme(is_better: Decomposition) -> Decomposition:
    """Return the decomposition of torch.cummax or cummin; of equal elements, torch returns the index of the last."""

    def decomposition(tensor: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = _known_size(tensor, dim, "torch.cummax and cummin")
        shape = [size if axis == dim % tensor.ndim else 1 for axis in range(tensor.ndim)]
        values, indices = tensor, torch.arange(size, device=tensor.device).reshape(shape).expand(tensor.shape)
        for shift in _powers_below(size):
            rest = size - shift
            takes_later = is_better(values.narrow(dim, shift, rest), values.narrow(dim, 0, rest))
            values, indices = (
                torch.cat(
                    [
                        found.narrow(dim, 0, shift),
                        torch.where(takes_later, found.narrow(dim, shift, rest), found.narrow(dim, 0, rest)),
                    ],
                    dim,
                )
                for found in (values, indices)
            )
        return values, indices

    return decomposition


def _powers_below(size: int) -> Iterator[int]:
    return itertools.takewhile(lambda power: power < size, (1 << exponent for exponent in itertools.count()))


def _masked_select(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    shape = torch.broadcast_shapes(tensor.shape, mask.shape)  # type: ignore[no-untyped-call]
    return tensor.expand(shape)[mask.expand(shape)]


def _kth_value(tensor: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    values, indices = torch.sort(tensor, dim=dim)
    kth = (found.narrow(dim, k - 1, 1) for found in (values, indices))
    values, indices = (found if keepdim else found.squeeze(dim) for found in kth)
    return values, indices


def _median(tensor: torch.Tensor, dim: int = -1, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lower of the two medians, as torch does."""
    return _kth_value(tensor, (_known_size(tensor, dim, "torch.median") + 1) // 2, dim, keepdim)


def _search_sorted(
    sequence: torch.Tensor,
    values: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """Count the elements of the sorted sequence that are smaller, or with `right` not larger, than each value."""
    if sorter is not None:
        sequence = sequence.gather(-1, sorter)
    if sequence.ndim > 1:
        sequence = sequence.unsqueeze(-2)
    compare = torch.le if right or side == "right" else torch.lt
    count = compare(sequence, values.unsqueeze(-1)).sum(-1)
    return count.to(torch.int32) if out_int32 else count


def _rrelu(
    tensor: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    return NotImplemented if training else functional.leaky_relu(tensor, (lower + upper) / 2)


def _squeeze(tensor: torch.Tensor) -> torch.Tensor:
    """Remove the dimensions that are always 1; the ONNX operator would also remove a batch that is 1 at run time."""
    ones = [axis for axis, size in enumerate(tensor.shape) if isinstance(size, int) and size == 1]
    return tensor.squeeze(ones) if ones else tensor.clone()


def _grouped_convolution(
    tensor: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: Any = 1,
) -> Any:
    """Compute a convolution whose number of groups is the batch: each sample has its own weights, [B * O, C, ...].

    ONNX requires a constant number of groups, so the windows of each group are multiplied with its weights.
    """
    if isinstance(groups, int):
        return NotImplemented
    added = 2 - len(weight.shape[2:])  # a 1-D convolution is one over an image of height 1
    kernel = (*[1] * added, *weight.shape[2:])
    strides, paddings, dilations = (
        (*[neutral] * added, *(given if len(given) > 1 else [*given] * (2 - added)))
        for given, neutral in ((stride, 1), (padding, 0), (dilation, 1))
    )
    count, channels = tensor.shape[0], weight.shape[1]
    size = [*[1] * added, *tensor.shape[2:]]
    columns = functional.unfold(
        tensor.reshape(count * groups, channels, *size), kernel, dilations, paddings, strides
    ).reshape(count, groups, channels * math.prod(kernel), -1)
    products = weight.reshape(1, groups, -1, channels * math.prod(kernel)) @ columns
    result = [
        (length + 2 * pad - step * (width - 1) - 1) // jump + 1
        for length, pad, step, width, jump in zip(size, paddings, dilations, kernel, strides, strict=True)
    ]
    output = products.reshape(count, weight.shape[0], *result[added:])
    return output if bias is None else output + bias.reshape(-1, *[1] * (2 - added))


DECOMPOSITIONS: Final[Mapping[Any, Decomposition]] = {
    **SPLITS,
    _ATEN.adaptive_max_pool1d.default: adaptive_max_pool,
    _ATEN.adaptive_max_pool2d.default: adaptive_max_pool,
    _ATEN.adaptive_max_pool3d.default: adaptive_max_pool,
    _ATEN.adaptive_avg_pool3d.default: adaptive_avg_pool,
    _ATEN.cdist.default: _cdist,
    _ATEN.conv1d.default: _grouped_convolution,
    _ATEN.conv2d.default: _grouped_convolution,
    _ATEN.cummax.default: _cumulative_extreme(torch.ge),
    _ATEN.cummin.default: _cumulative_extreme(torch.le),
    _ATEN.cumprod.default: _cumprod,
    _ATEN.kthvalue.default: _kth_value,
    _ATEN.masked_select.default: _masked_select,
    _ATEN.median.dim: _median,
    _ATEN.rrelu.default: _rrelu,
    _ATEN.searchsorted.Tensor: _search_sorted,
    _ATEN.squeeze.default: _squeeze,
}
"""ATen operator -> function with the same signature that computes it with other operators."""

"""Finds the dimension of each value that holds the batch, in a graph whose batch is a fixed number."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Final, NamedTuple

import onnx_ir as ir

from edgeexit.compiler.graph import REDUCTIONS, label_of

_RECURRENT_INPUT_AXIS: Final = 1
_RECURRENT_OUTPUT_AXES: Final = (2, 1, 1)
"""Axis of the batch in the outputs Y, Y_h and Y_c of a recurrent node."""
_MATRIX: Final = 2


class BatchPlace(NamedTuple):
    """Where a value has the batch."""

    axis: int
    factor: int = 1
    """The dimension is `factor` times the batch."""
    outer: int = 1
    """The part of `factor` outside the batch: 1 for [batch * 4], 4 for [4 * batch]."""


class BatchPlaces(NamedTuple):
    """Where the values of a graph have the batch."""

    size: int
    """The batch of the graph."""
    of: dict[ir.Value, BatchPlace]
    stuck: str | None
    """The first node after which the batch could not be followed, as `label_of` returns it; None without one."""

    def holds(self, shape: Sequence[int], place: BatchPlace) -> bool:
        """Return True if a shape can have the batch at this place."""
        return 0 <= place.axis < len(shape) and shape[place.axis] == place.factor * self.size


Rule = Callable[[ir.Node, ir.Value, BatchPlace], Sequence[BatchPlace | None]]
"""Returns the places of the batch in the outputs, from the first input that has the batch and its place there."""


def find_batch(graph: ir.Graph, size: int) -> BatchPlaces:
    """Follow the first dimension of all inputs, of `size`, through a graph whose shapes are inferred."""
    places = {value: BatchPlace(0) for value in graph.inputs if value.shape}
    found = BatchPlaces(size, places, None)
    for node in graph:
        source = next((value for value in node.inputs if value is not None and value in places), None)
        if source is None or node.op_type in {"Shape", "Size"}:
            continue
        if node.op_type in {"Reshape", "Flatten"}:
            outputs: Sequence[BatchPlace | None] = [reshaped(node, source, places[source], size)]
        else:
            rule = _RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
            outputs = _broadcast(node, found) if rule is None else rule(node, source, places[source])
        reached = False
        for value, place in zip(node.outputs, outputs, strict=False):
            shape = sizes_of(value)
            if place is not None and (shape is None or found.holds(shape, place)):
                places[value] = place
                reached = True
        if not reached and found.stuck is None:
            found = found._replace(stuck=label_of(node))
    return found


def sizes_of(value: ir.Value | None) -> list[int] | None:
    """Return the shape of a value, or None if a dimension is unknown."""
    if value is None or value.shape is None:
        return None
    sizes = [size for size in value.shape if isinstance(size, int)]
    return sizes if len(sizes) == len(value.shape) else None


def constant_ints(value: ir.Value | None) -> list[int] | None:
    """Return the elements of a constant vector of integers, or None for any other value."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(size) for size in tensor.numpy().reshape(-1)]


def reshaped(node: ir.Node, source: ir.Value, place: BatchPlace, size: int) -> BatchPlace | None:
    """Return where a Reshape moves the batch: to the axis that begins after as many elements as before."""
    before, after = sizes_of(source), sizes_of(node.outputs[0])
    if before is None or after is None:
        return None
    start = prod(before[: place.axis]) * place.outer
    found = []
    for axis, length in enumerate(after):
        outer, rest = divmod(start, prod(after[:axis]))
        if outer and not rest and length % (outer * size) == 0:
            found.append(BatchPlace(axis, length // size, outer))
    # A batch of 1 fits at several places. The last axis is the least likely: it has the features, which are multiplied.
    last = len(after) - 1
    return min(found, key=lambda at: (after[at.axis] != size, at.axis == last, at.outer), default=None)


def _broadcast(node: ir.Node, places: BatchPlaces) -> list[BatchPlace | None]:
    """Follow the batch through an operator that broadcasts, or that keeps the dimensions of an input."""
    return [next(iter(_candidates(node, output, places)), None) for output in node.outputs]


def _candidates(node: ir.Node, output: ir.Value, places: BatchPlaces) -> list[BatchPlace]:
    """Return the places of the batch that fit the shape of an output, from the inputs in their order."""
    shape = sizes_of(output)
    ranks = [len(sizes) for value in node.inputs if (sizes := sizes_of(value)) is not None]
    rank = max(ranks, default=0) if shape is None else len(shape)
    found = []
    for value in node.inputs:
        if value is None or value not in places.of:
            continue
        place = places.of[value]
        own = sizes_of(value)
        moved = 0 if own is None else rank - len(own)  # operands are aligned at their last axes
        found += [place._replace(axis=axis) for axis in (place.axis + moved, place.axis) if axis >= 0]
    return [place for place in found if shape is None or places.holds(shape, place)]


def _transpose(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    reverse = tuple(reversed(range(_rank(source))))
    order = list(node.attributes.get_ints("perm", reverse))
    return [place._replace(axis=order.index(place.axis)) if place.axis in order else None]


def _squeeze(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    shape = sizes_of(source) or []
    given = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    removed = {axis % len(shape) for axis in given} if given else {at for at, size in enumerate(shape) if size == 1}
    return [None if place.axis in removed else _without(place, removed)]


def _unsqueeze(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    given, rank = constant_ints(node.inputs[1]), _rank(source)
    if given is None:
        return [None]
    rank += len(given)
    kept = [axis for axis in range(rank) if axis not in {added % rank for added in given}]
    return [place._replace(axis=kept[place.axis])]


def _gather(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    data, indices = node.inputs[:2]
    axis = node.attributes.get_int("axis", 0) % max(_rank(data), 1)
    if source is indices:
        return [place._replace(axis=axis + place.axis)]
    if place.axis == axis:
        return [None]
    grown = _rank(indices) - 1 if place.axis > axis else 0
    return [place._replace(axis=place.axis + grown)]


def _slice(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    starts = constant_ints(node.inputs[1]) or []
    axes = constant_ints(node.inputs[3]) if len(node.inputs) > 3 else None  # noqa: PLR2004 - starts, ends, axes
    for start, axis in zip(starts, axes or range(len(starts)), strict=False):
        if axis % max(_rank(source), 1) == place.axis and start != 0:
            return [None]
    return [place]


def _concat(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    return [None if node.attributes.get_int("axis") % max(_rank(source), 1) == place.axis else place]


def _gemm(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    if source is not node.inputs[0] or place.axis != node.attributes.get_int("transA", 0):
        return [None]
    return [place._replace(axis=0)]


def _matmul(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    before = _rank(source)
    contracted = before - 1 if source is node.inputs[0] else before - _MATRIX
    if before < _MATRIX or place.axis == contracted:
        return [None]
    return [place._replace(axis=place.axis + max(_rank(node.outputs[0]) - before, 0))]


def _recurrent(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    if source is not node.inputs[0] or place.axis != _RECURRENT_INPUT_AXIS:
        return [None]
    return [place._replace(axis=axis) for axis in _RECURRENT_OUTPUT_AXES]


def _einsum(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    inputs, _, output = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    letters = inputs.split(",")[list(node.inputs).index(source)]
    letter = letters[place.axis : place.axis + 1] if "." not in letters else ""
    return [place._replace(axis=output.index(letter)) if letter and letter in output else None]


def reduced_axes(node: ir.Node, rank: int) -> set[int] | None:
    """Return the axes that a Reduce, ArgMax or ArgMin node removes, or None if they are computed."""
    axes: Sequence[int] | None = ()
    if node.op_type in {"ArgMax", "ArgMin"}:
        axes = [node.attributes.get_int("axis", 0)]
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = constant_ints(node.inputs[1])
    elif "axes" in node.attributes:
        axes = node.attributes.get_ints("axes")
    if axes is None:
        return None
    keeps = node.attributes.get_int("noop_with_empty_axes", False)  # noqa: FBT003 - the stub wants a bool
    if not axes and keeps:
        return set()
    return {axis % max(rank, 1) for axis in axes} or set(range(rank))


def _reduce(node: ir.Node, source: ir.Value, place: BatchPlace) -> list[BatchPlace | None]:
    reduced = reduced_axes(node, _rank(source))
    if reduced is None or place.axis in reduced:
        return [None]
    return [place if node.attributes.get_int("keepdims", 1) else _without(place, reduced)]


def _without(place: BatchPlace, removed: set[int]) -> BatchPlace:
    return place._replace(axis=place.axis - sum(axis < place.axis for axis in removed))


def _rank(value: ir.Value | None) -> int:
    return 0 if value is None or value.shape is None else len(value.shape)


_RULES: Final[Mapping[str, Rule]] = {
    "Concat": _concat,
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gather": _gather,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "RNN": _recurrent,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    **dict.fromkeys((*REDUCTIONS, "ArgMax", "ArgMin"), _reduce),
}

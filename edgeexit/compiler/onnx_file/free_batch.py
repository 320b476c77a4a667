"""Makes the fixed batch of a graph dynamic.

Old exporters write the batch of their example into the graph: as the first size of every input, in the targets of
Reshape, in the initial states of LSTM, in tokens that are joined to every sample. This pass follows the batch through
the graph and rewrites the nodes that fix it. It guesses where the graph is ambiguous, so the caller must compare the
result with the original file, which runs on its own batch size only.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.extract import values_read_by
from edgeexit.compiler.graph import BATCH, add_initializer, all_values, infer_shapes, names_in, unique_name
from edgeexit.compiler.onnx_file.batch_places import BatchPlace, BatchPlaces, constant_ints, find_batch, sizes_of
from edgeexit.compiler.onnx_file.static_shapes import infer_static_shapes
from edgeexit.errors import CompileError

_SIZES_INPUT: Final = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""Operator -> index of the input that sets the sizes of the output."""
_STATES: Final = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Operator -> indices of the initial states."""
_BROADCASTING: Final = {
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "Max", "Mean", "Min",
    "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
}  # fmt: skip
"""Operators whose operands may have one row for all samples."""
_MATRIX: Final = 2
_END: Final = np.iinfo(np.int64).max


class FreedBatch(NamedTuple):
    """What `free_batch` did."""

    size: int
    """The batch that the graph had."""
    stuck: str | None
    """The first node after which the batch could not be followed, as `label_of` returns it; None without one."""


def fixed_batch_of(graph: ir.Graph) -> int | None:
    """Return the fixed first size of the inputs, or None if no input has one.

    Raises CompileError if inputs have different fixed first sizes.
    """
    first = {str(value.name): value.shape[0] for value in graph.inputs if value.shape}
    fixed = {name: size for name, size in first.items() if isinstance(size, int)}
    if len(set(fixed.values())) > 1:
        listed = ", ".join(f"'{name}' {size}" for name, size in fixed.items())
        raise CompileError(
            f"the inputs have different fixed first sizes: {listed}; the first dimension of every input is the batch; "
            "export the model with a dynamic first dimension (dynamic_shapes, or dynamic_axes in old exporters)"
        )
    return next(iter(fixed.values()), None)


def free_batch(model: ir.Model) -> FreedBatch | None:
    """Make the first dimension of every input dynamic, in place; return None if it is dynamic already.

    Constants must be initializers of the main graph. The shapes of all other values are inferred again. Raises
    CompileError as `fixed_batch_of`.
    """
    graph = model.graph
    size = fixed_batch_of(graph)
    if size is None:
        return None
    for value in graph.inputs:  # an input may be dynamic already, next to one that is not
        if value.shape:
            value.shape = ir.Shape([size, *list(value.shape)[1:]])
    infer_static_shapes(model)
    places = find_batch(graph, size)
    editor = _Editor(graph, places)
    for node in tuple(graph):
        editor.free(node)
    for value in graph.inputs:
        if value.shape:
            value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])
    for value in all_values(graph):
        if not value.is_graph_input() and not value.is_initializer():
            value.shape = None
    infer_shapes(model)
    return FreedBatch(size, places.stuck)


class _Editor:
    """Rewrites nodes of a graph so that they take the batch from a tensor that has it."""

    def __init__(self, graph: ir.Graph, places: BatchPlaces) -> None:
        self._graph = graph
        self._places = places
        self._taken = names_in(graph)
        self._variable = set(graph.inputs)
        """Values that depend on an input or on its shape; all other values have the fixed batch in them."""
        for node in graph:
            if not self._variable.isdisjoint(values_read_by(node)):
                self._variable.update(node.outputs)

    def free(self, node: ir.Node) -> None:
        """Rewrite a node if it fixes the batch."""
        source = next((value for value in node.inputs if value is not None and value in self._places.of), None)
        place = self._places.of.get(node.outputs[0])
        if node.op_type == "Expand" and node.inputs[0] not in self._variable:
            self._free_expanded(node)
        if source is None or place is None or node.domain not in {"", "ai.onnx"}:
            return
        index = _SIZES_INPUT.get(node.op_type, len(node.inputs))
        if index < len(node.inputs) and node.inputs[index] is not None and "axes" not in node.attributes:
            self._free_sizes(node, index, source, place)
        elif node.op_type == "Slice":
            self._free_end(node, self._places.of[source])
        elif node.op_type == "Concat" or node.op_type in _STATES:
            self._free_joined(node, source)
        elif node.op_type in _BROADCASTING:
            self._align_vectors(node, place)
            if self._places.size > 1:
                self._free_broadcast(node, place)

    def _free_sizes(self, node: ir.Node, index: int, source: ir.Value, place: BatchPlace) -> None:
        """Put the batch into the sizes of the output, which are constants or a Concat of constants and other values."""
        fixed = self._places.size * place.factor
        sizes = node.inputs[index]
        constant = constant_ints(sizes)
        axis = place.axis
        if constant is not None:
            axis += len(constant) - len(sizes_of(node.outputs[0]) or constant)  # Expand may have fewer sizes
            keeps = node.op_type == "Expand" and fixed == 1  # a size of 1 broadcasts
            if axis < 0 or constant[axis] != fixed or keeps:
                return
            rest = constant[axis + 1 :]
            if node.op_type == "Reshape" and -1 not in constant:
                free = self._constant([*constant[:axis], -1, *rest], node)
            elif (
                node.op_type == "Reshape"
                and place == self._places.of[source]
                and not node.attributes.get_int("allowzero", 0)
            ):
                free = self._constant([*constant[:axis], 0, *rest], node)
            else:
                parts = [self._constant(constant[:axis], node), self._size_of(node, source, place)]
                free = self._concat(node, [*parts, self._constant(rest, node)])
            node.replace_input_with(index, free)
            return
        concat = None if sizes is None else sizes.producer()
        if concat is None or concat.op_type != "Concat" or any(sizes_of(part) != [1] for part in concat.inputs):
            return
        if axis < len(concat.inputs) and constant_ints(concat.inputs[axis]) == [fixed]:
            parts = [part for part in concat.inputs if part is not None]
            parts[axis] = self._size_of(node, source, place)
            node.replace_input_with(index, self._concat(node, parts))

    def _free_end(self, node: ir.Node, place: BatchPlace) -> None:
        """Remove the end of a slice that ends at the fixed batch."""
        ends = constant_ints(node.inputs[2])
        axes = constant_ints(node.inputs[3]) if len(node.inputs) > 3 else None  # noqa: PLR2004 - starts, ends, axes
        rank = len(sizes_of(node.outputs[0]) or ())
        for at, axis in enumerate(axes or range(len(ends or ()))):
            if ends is not None and rank and axis % rank == place.axis and ends[at] < _END:
                ends[at] = _END
                node.replace_input_with(2, self._constant(ends, node))

    def _free_joined(self, node: ir.Node, source: ir.Value) -> None:
        """Repeat the constants that a Concat joins to the batch, or the constant initial states, for every sample."""
        place = self._places.of[source]
        for index, value in enumerate(node.inputs):
            if index in _STATES.get(node.op_type, (index,)) and value is not None and self._is_fixed(value, place):
                node.replace_input_with(index, self._repeat(node, value, source, place))

    def _free_broadcast(self, node: ir.Node, place: BatchPlace) -> None:
        """Keep one row of the constants that are combined with the batch; it broadcasts."""
        ranks = [len(sizes) for value in node.inputs if (sizes := sizes_of(value)) is not None]
        for index, value in enumerate(node.inputs):
            rank = len(sizes_of(value) or ())
            own = place._replace(axis=place.axis + rank - max(ranks))  # operands are aligned at their last axes
            if value is None or not self._is_fixed(value, own):
                continue
            if node.op_type != "MatMul" or own.axis < rank - _MATRIX:
                node.replace_input_with(index, self._first_rows(node, value, own))

    def _align_vectors(self, node: ir.Node, place: BatchPlace) -> None:
        """Append dimensions to an operand [batch] such that its batch is aligned with that of [batch, n].

        A batch of 1 broadcasts over the last dimension, too.
        """
        rank = len(sizes_of(node.outputs[0]) or ())
        for index, value in enumerate(node.inputs):
            sizes = sizes_of(value)
            if value is None or sizes is None or value not in self._places.of or node.op_type == "MatMul":
                continue
            missing = self._places.of[value].axis + rank - len(sizes) - place.axis
            if 0 < missing <= rank - len(sizes):
                axes = self._constant(list(range(-missing, 0)), node)
                node.replace_input_with(index, self._add(node, "Unsqueeze", [value, axes]))

    def _is_fixed(self, value: ir.Value, place: BatchPlace) -> bool:
        """Return True if a constant has one row for each sample of the fixed batch."""
        sizes = None if value in self._variable else sizes_of(value)
        return sizes is not None and place.outer == 1 and self._places.holds(sizes, place)

    def _free_expanded(self, node: ir.Node) -> None:
        """Keep one row of a constant that is expanded to computed sizes, which may contain the batch."""
        value, target = node.inputs
        shape, size = sizes_of(value), self._places.size
        if value is None or target is None or shape is None or size == 1 or constant_ints(target) is not None:
            return
        concat = target.producer()
        parts = [None] if concat is None or concat.op_type != "Concat" else list(concat.inputs)
        parts = parts if len(parts) == len(shape) else [None] * len(shape)
        for axis, part in enumerate(parts):
            if shape[axis] == size and constant_ints(part) is None:
                node.replace_input_with(0, self._first_rows(node, value, BatchPlace(axis)))

    def _first_rows(self, node: ir.Node, value: ir.Value, place: BatchPlace) -> ir.Value:
        """Return the rows of the first sample; the rows of the others are assumed to be equal."""
        ends = [self._constant([number], node) for number in (0, place.factor, place.axis)]
        return self._add(node, "Slice", [value, *ends])

    def _repeat(self, node: ir.Node, value: ir.Value, source: ir.Value, place: BatchPlace) -> ir.Value:
        rank = len(sizes_of(value) or ())
        before, after = ([1] * count for count in (place.axis, rank - place.axis - 1))
        batch = self._size_of(node, source, place._replace(factor=1))
        repeats = self._concat(node, [self._constant(before, node), batch, self._constant(after, node)])
        return self._add(node, "Tile", [self._first_rows(node, value, place), repeats])

    def _size_of(self, node: ir.Node, source: ir.Value, place: BatchPlace) -> ir.Value:
        """Return `factor` times the batch as a vector of one element, read from `source` at run time."""
        own = self._places.of[source]
        shape = self._add(node, "Shape", [source])
        size = self._add(node, "Gather", [shape, self._constant([own.axis], node)], axis=0)
        if own.factor == place.factor:
            return size
        batch = self._add(node, "Div", [size, self._constant([own.factor], node)])
        return self._add(node, "Mul", [batch, self._constant([place.factor], node)])

    def _concat(self, node: ir.Node, parts: Iterable[ir.Value]) -> ir.Value:
        return self._add(node, "Concat", [part for part in parts if sizes_of(part) != [0]], axis=0)

    def _add(self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value], **attributes: int) -> ir.Value:
        """Insert a node before `node`, and return its output."""
        name = unique_name(f"{node.outputs[0].name}.{op_type.lower()}", self._taken)
        added = ir.node(op_type, inputs, attributes, name=name)
        added.outputs[0].name = name
        self._graph.insert_before(node, added)
        return added.outputs[0]

    def _constant(self, numbers: Sequence[int], node: ir.Node) -> ir.Value:
        name = unique_name(f"{node.outputs[0].name}.sizes", self._taken)
        return add_initializer(self._graph, ir.Tensor(np.array(numbers, dtype=np.int64), name=name))

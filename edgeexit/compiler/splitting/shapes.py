"""Makes shapes from whatever tensors are at hand, so that no big tensor is kept for the sake of its shape."""

from collections.abc import Collection, Iterable
from itertools import groupby

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.graph import BATCH, free_name


def words_of(shape: Iterable[int | str | ir.SymbolicDim]) -> frozenset[str]:
    """Return the names of the dimensions that have one, which all tensors of a graph share."""
    names = (size.value if isinstance(size, ir.SymbolicDim) else size for size in shape)
    return frozenset(name for name in names if isinstance(name, str))


def input_words(graph: ir.Graph) -> frozenset[str]:
    """Return the names of the dimensions of a model's inputs, each of which every stage can find out."""
    return frozenset().union(*(words_of(value.shape or ()) for value in graph.inputs))


def size_or_word(seen: int, inferred: int | ir.SymbolicDim, known: Collection[str]) -> int | str:
    """Return a dimension's size or, where it may differ from run to run, what inference calls it: perhaps nothing.

    Args:
        seen: its size in a run.
        inferred: what inference says.
        known: `input_words` of the model.

    """
    if isinstance(inferred, int):
        return inferred
    if set(known) == {BATCH}:  # nothing else varies
        return seen
    return str(inferred.value or "")


def words_needed(node: ir.Node, known: Collection[str]) -> frozenset[str] | None:
    """Return the names of the dimensions that a Shape node returns, or None where one has none of the `known` names."""
    sizes = _sizes(node)
    words = None if sizes is None else words_of(sizes)
    if sizes is None or words is None or not words.issubset(known):
        return None
    unknown = [size for size in sizes if not isinstance(size, int) and size.value not in words]
    return None if unknown else words


def read_sizes_from(graph: ir.Graph, node: ir.Node, inputs: Iterable[ir.Value], taken: set[str]) -> None:
    """Replace a Shape node: read its dimensions off `inputs`, which have all that are no numbers.

    `taken` are the names in the graph, and in the end those that are added as well.
    """
    sources: dict[str, tuple[ir.Value, int]] = {}
    for value in inputs:
        for axis, size in enumerate(value.shape or ()):
            for word in words_of([size]):
                sources.setdefault(word, (value, axis))
    result = node.outputs[0]
    pieces: list[ir.Value] = []
    for number, (is_known, group) in enumerate(groupby(_sizes(node) or (), key=lambda size: isinstance(size, int))):
        name = free_name(f"{result.name}.{number}", taken)
        if is_known:
            tensor = ir.Tensor(np.array(list(group), dtype=np.int64), name=name)
            known = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
            graph.register_initializer(known)
            pieces.append(known)
            continue
        for size in group:
            source, axis = sources[str(getattr(size, "value", size))]
            one = free_name(f"{name}.{axis}", taken)
            shape = ir.node("Shape", [source], {"start": axis, "end": axis + 1}, name=one)
            shape.outputs[0].name = one
            shape.outputs[0].type, shape.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
            graph.insert_before(node, shape)
            pieces.append(shape.outputs[0])
    concat = ir.node("Concat", pieces, {"axis": 0}, name=free_name(f"{result.name}.sizes", taken))
    concat.outputs[0].type, concat.outputs[0].shape = result.type, result.shape
    graph.insert_before(node, concat)
    result.replace_all_uses_with(concat.outputs[0])
    graph.remove(node, safe=True)
    concat.outputs[0].name = result.name


def _sizes(node: ir.Node) -> list[int | ir.SymbolicDim] | None:
    """Return the dimensions that a Shape node returns, or None where nothing is known of them or there is none."""
    data = node.inputs[0] if node.op_type == "Shape" and node.domain in {"", "ai.onnx"} else None
    if data is None or data.shape is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(data.shape))
    return list(data.shape)[start:end] or None

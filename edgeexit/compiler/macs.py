"""Counts multiply-accumulates: what a stage costs until it has been measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.extract import needed_for, reads_of
from edgeexit.compiler.graph import bodies

Shape = tuple[int, ...]
Look = Callable[[ir.Model, Sequence[str]], Sequence[Mapping[str, tuple[str, Shape]]]]
"""Runs a model on one sample and returns, as the only item, dtype and shape of the values it is asked for."""

_CALL = "edgeexit.call"
_STANDARD = {"", "ai.onnx"}
_BODIES_UNCOUNTED = {"Scan", "SequenceMap"}


class _Formula(NamedTuple):
    reads: tuple[int, ...]
    """Inputs whose shapes it needs."""
    macs: Callable[[ir.Node, Sequence[Shape], Shape], int]
    """From a node, the shapes of those inputs and that of the first output."""


def count_macs(model: ir.Model, look: Look) -> tuple[int | None, ...]:
    """Return the multiply-accumulates of each node of a model's graph on one sample.

    Counted are convolutions, matrix products, attention and recurrent layers, in functions too. An If counts as its
    dearer branch, a Loop as often as its constant trip count says. None stands for what may cost but is not counted:
    operators of foreign domains, Scan, a Loop whose trips are known at run time alone, shapes that nothing tells.
    """
    flat = _inlined(model)
    sizes = _Sizes(flat, look)
    counts: list[int | None] = [0] * len(model.graph)
    for place, node in enumerate(flat.graph):
        index = int(node.metadata_props.get(_CALL, place))
        counts[index] = _add(counts[index], _count(node, sizes))
    return tuple(counts)


def cheaper_exit(graph: ir.Graph, counts: Sequence[int | None]) -> str | None:
    """Say which exit takes fewer multiply-accumulates by itself than the one before it; such are seldom in order.

    None where there is no such exit, or where it needs a node whose cost is not counted. `counts` are `count_macs`.
    """
    of = dict(zip(graph, counts, strict=True))
    needed = [[of[node] for node in needed_for(graph, [value])] for value in graph.outputs]
    macs = [sum(count for count in each if count is not None) for each in needed]
    if any(None in each for each in needed):
        return None
    names = [str(value.name) for value in graph.outputs]
    for index in range(1, len(macs)):
        if macs[index] < macs[index - 1]:
            order = ",".join(name for _, name in sorted(zip(macs, names, strict=True), key=lambda pair: pair[0]))
            return (
                f"exit '{names[index]}' by itself takes {macs[index]:,} MACs, exit '{names[index - 1]}' before it "
                f"{macs[index - 1]:,}; shallow to deep they are {order}"
            )
    return None


def is_product(node: ir.Node) -> bool:
    """Say whether a node is one of those that are counted: too dear to be run twice."""
    return _formula(node) is not None


class _Sizes:
    """Shapes of values on one sample: as inferred, and from a run of the model where inference does not tell."""

    def __init__(self, model: ir.Model, look: Look) -> None:
        inputs = [str(value.name) for value in model.graph.inputs]
        (given,) = look(model, inputs)
        self._words: dict[str, int] = {}
        for value in model.graph.inputs:
            for size, number in zip(value.shape or (), given[str(value.name)][1], strict=False):
                if isinstance(size, ir.SymbolicDim) and size.value is not None:
                    self._words.setdefault(size.value, number)
        top = {*model.graph.inputs, *(value for node in model.graph for value in node.outputs)}
        operands = [value for value in _operands(model.graph) if value.name and value in top]
        unknown = dict.fromkeys(value for value in operands if self._inferred(value) is None)
        (seen,) = look(model, [str(value.name) for value in unknown])
        self._seen = {value: seen[str(value.name)][1] for value in unknown if str(value.name) in seen}

    def of(self, value: ir.Value | None) -> Shape | None:
        """Return a value's shape, () where an operator leaves it out, or None where nothing tells it."""
        if value is None or not value.name:
            return ()
        inferred = self._inferred(value)
        return self._seen.get(value) if inferred is None else inferred

    def _inferred(self, value: ir.Value) -> Shape | None:
        shape = value.shape if value.const_value is None else value.const_value.shape
        if shape is None:
            return None
        sizes = [size if isinstance(size, int) else self._words.get(str(size.value)) for size in shape]
        known = tuple(size for size in sizes if size is not None)
        return known if len(known) == len(sizes) else None


def _inlined(model: ir.Model) -> ir.Model:
    """Return a model without functions whose nodes tell from which node of `model` they come."""
    if not model.functions:
        return model
    flat = model.clone()
    for place, node in enumerate(flat.graph):
        node.metadata_props[_CALL] = str(place)  # the pass hands it on to what it puts in the node's place
    passes.InlinePass()(flat)
    return flat


def _operands(nodes: ir.Graph) -> Iterator[ir.Value]:
    for node in nodes:
        formula = _formula(node)
        if formula is not None:
            yield from (value for value in (*reads_of(node), *node.outputs[:1]) if value.const_value is None)
        for body in bodies(node):
            yield from _operands(body)


def _count(node: ir.Node, sizes: _Sizes) -> int | None:
    formula = _formula(node)
    if formula is not None:
        shapes = [sizes.of(node.inputs[index]) if index < len(node.inputs) else () for index in formula.reads]
        out = sizes.of(node.outputs[0])
        known = [shape for shape in shapes if shape is not None]
        return None if out is None or len(known) < len(shapes) else formula.macs(node, known, out)
    if node.domain not in _STANDARD:
        return None
    inside = [_count_all(body, sizes) for body in bodies(node)]
    if not any(count != 0 for count in inside):
        return 0
    if node.op_type in _BODIES_UNCOUNTED or None in inside:
        return None
    most = max(count for count in inside if count is not None)
    if node.op_type != "Loop":
        return most
    trips = node.inputs[0].const_value if node.inputs[0] is not None else None
    return None if trips is None else most * int(trips.numpy().item())


def _count_all(nodes: ir.Graph, sizes: _Sizes) -> int | None:
    total: int | None = 0
    for node in nodes:
        total = _add(total, _count(node, sizes))
    return total


def _add(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


def _formula(node: ir.Node) -> _Formula | None:
    return _FORMULAS.get(node.op_type) if node.domain in _STANDARD else None


def _conv(_node: ir.Node, reads: Sequence[Shape], out: Shape) -> int:
    (weight,) = reads
    return prod(out) * prod(weight[1:])


def _conv_transpose(_node: ir.Node, reads: Sequence[Shape], _out: Shape) -> int:
    data, weight = reads
    return prod(data) * prod(weight[1:])


def _matmul(_node: ir.Node, reads: Sequence[Shape], out: Shape) -> int:
    (left,) = reads
    return prod(out) * left[-1]


def _gemm(node: ir.Node, reads: Sequence[Shape], out: Shape) -> int:
    (left,) = reads
    return prod(out) * left[0 if node.attributes.get_int("transA", 0) else 1]


def _einsum(node: ir.Node, reads: Sequence[Shape], _out: Shape) -> int:
    """Every combination of indices once, as for two operands; one operand is no product."""
    terms = node.attributes.get_string("equation", "").replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, reads, strict=False):
        before, dots, after = term.partition("...")
        hidden = [f"...{index}" for index in range(len(shape) - len(before) - len(after), 0, -1)] if dots else []
        for label, size in zip([*before, *hidden, *after], shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return prod(sizes.values()) if len(terms) > 1 else 0


def _attention(node: ir.Node, reads: Sequence[Shape], _out: Shape) -> int:
    """Multiply queries with keys, and weights with values: [B, heads, length, size] or [B, length, heads * size]."""
    query, key, value = reads
    if len(query) == len("BHLS"):
        return prod(query[:3]) * key[2] * (query[3] + value[3])
    heads = node.attributes.get_int("q_num_heads", 1) // node.attributes.get_int("kv_num_heads", 1)
    return prod(query[:2]) * key[1] * (query[2] + value[2] * heads)


def _recurrent(_node: ir.Node, reads: Sequence[Shape], _out: Shape) -> int:
    data, weight, recurrence = reads
    return prod(data[:2]) * (prod(weight) + prod(recurrence))


_FORMULAS = {
    "Attention": _Formula((0, 1, 2), _attention),
    "Conv": _Formula((1,), _conv),
    "ConvInteger": _Formula((1,), _conv),
    "ConvTranspose": _Formula((0, 1), _conv_transpose),
    "DeformConv": _Formula((1,), _conv),
    "Einsum": _Formula((0, 1, 2, 3), _einsum),
    "GRU": _Formula((0, 1, 2), _recurrent),
    "Gemm": _Formula((0,), _gemm),
    "LSTM": _Formula((0, 1, 2), _recurrent),
    "MatMul": _Formula((0,), _matmul),
    "MatMulInteger": _Formula((0,), _matmul),
    "QLinearConv": _Formula((3,), _conv),
    "QLinearMatMul": _Formula((0,), _matmul),
    "RNN": _Formula((0, 1, 2), _recurrent),
}

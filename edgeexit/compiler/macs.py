"""Counts multiply-accumulates (MACs), which are the cost of a stage as long as the bundle has no latency profile."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.extract import nodes_needed_for, values_read_by
from edgeexit.compiler.graph import subgraphs_of

Shape = tuple[int, ...]
ShapeProbe = Callable[[ir.Model, Sequence[str]], Sequence[Mapping[str, tuple[str, Shape]]]]
"""(model, names of values) -> one mapping, name -> (dtype, shape), from a run of the model on one sample."""

_CALL = "edgeexit.call"  # metadata key of the index of the original node
_STANDARD = {"", "ai.onnx"}
_UNCOUNTED_LOOPS = {"Scan", "SequenceMap"}  # their number of iterations depends on the input


class _Formula(NamedTuple):
    """How to count the multiply-accumulates of an operator."""

    reads: tuple[int, ...]
    """Positions of the inputs whose shapes the formula needs."""
    macs: Callable[[ir.Node, Sequence[Shape], Shape], int]
    """(node, shapes of those inputs, shape of the first output) -> multiply-accumulates."""


def count_macs(model: ir.Model, probe: ShapeProbe) -> tuple[int | None, ...]:
    """Return the multiply-accumulates of each node of a model's graph on one sample.

    Convolutions, matmuls, attention and recurrent layers are counted, also inside functions. An If counts as its more
    expensive branch, and the body of a Loop counts once per iteration of a constant trip count. None means unknown:
    operators of other domains, Scan, a Loop without constant trip count, or unknown shapes.
    """
    flat = _inlined(model)
    sizes = _OperandShapes(flat, probe)
    counts: list[int | None] = [0] * len(model.graph)
    for place, node in enumerate(flat.graph):
        index = int(node.metadata_props.get(_CALL, place))
        counts[index] = _add(counts[index], _count(node, sizes))
    return tuple(counts)


def find_early_companions(
    graph: ir.Graph, exits: Sequence[str], companions: Mapping[str, Sequence[str]], counts: Sequence[int | None]
) -> list[str]:
    """Return a message for each exit whose companions need nodes of deeper exits, which its stage then runs.

    `companions` is exit name -> its companions among the graph's outputs, `counts` the result of `count_macs`.
    """
    if not companions:
        return []
    macs_of_node = dict(zip(graph, counts, strict=True))
    outputs = {str(value.name): value for value in graph.outputs}
    needed = [set(nodes_needed_for(graph, [outputs[name]])) for name in exits]
    done: set[ir.Node] = set()
    messages = []
    for index, name in enumerate(exits):
        done |= needed[index]
        needed_by_companions = set(nodes_needed_for(graph, [outputs[each] for each in companions.get(name, ())]))
        early = (needed_by_companions - done).intersection(*[set().union(*needed[index + 1 :])])
        macs = sum(macs_of_node[node] or 0 for node in early)
        if macs:
            messages.append(
                f"the companions of exit '{name}' need {macs:,} MACs of deeper exits; every sample that reaches "
                f"'{name}' pays for them"
            )
        done |= needed_by_companions
    return messages


def is_matmul_or_conv(node: ir.Node) -> bool:
    """Return True for an operator with multiply-accumulates: a matmul, convolution, attention or recurrent layer."""
    return _formula(node) is not None


class _OperandShapes:
    """Shapes of operands on one sample: from shape inference, or from a run of the model where inference fails."""

    def __init__(self, model: ir.Model, probe: ShapeProbe) -> None:
        inputs = [str(value.name) for value in model.graph.inputs]
        (given,) = probe(model, inputs)
        self._symbolic_sizes: dict[str, int] = {}
        for value in model.graph.inputs:
            for size, number in zip(value.shape or (), given[str(value.name)][1], strict=False):
                if isinstance(size, ir.SymbolicDim) and size.value is not None:
                    self._symbolic_sizes.setdefault(size.value, number)
        top = {*model.graph.inputs, *(value for node in model.graph for value in node.outputs)}
        operands = [value for value in _operands(model.graph) if value.name and value in top]
        unknown = dict.fromkeys(value for value in operands if self._inferred(value) is None)
        (seen,) = probe(model, [str(value.name) for value in unknown])
        self._seen = {value: seen[str(value.name)][1] for value in unknown if str(value.name) in seen}

    def of(self, value: ir.Value | None) -> Shape | None:
        """Return the shape of a value, () for an omitted input, or None if it is unknown."""
        if value is None or not value.name:
            return ()
        inferred = self._inferred(value)
        return self._seen.get(value) if inferred is None else inferred

    def _inferred(self, value: ir.Value) -> Shape | None:
        shape = value.shape if value.const_value is None else value.const_value.shape
        if shape is None:
            return None
        sizes = [size if isinstance(size, int) else self._symbolic_sizes.get(str(size.value)) for size in shape]
        known = tuple(size for size in sizes if size is not None)
        return known if len(known) == len(sizes) else None


def _inlined(model: ir.Model) -> ir.Model:
    """Return a model without functions; the metadata of its nodes holds the index of the original node."""
    if not model.functions:
        return model
    flat = model.clone()
    for place, node in enumerate(flat.graph):
        node.metadata_props[_CALL] = str(place)  # the pass copies it to the nodes that replace this one
    passes.InlinePass()(flat)
    return flat


def _operands(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the inputs and the first output of each node with multiply-accumulates, at any depth."""
    for node in graph:
        formula = _formula(node)
        if formula is not None:
            yield from (value for value in (*values_read_by(node), *node.outputs[:1]) if value.const_value is None)
        for subgraph in subgraphs_of(node):
            yield from _operands(subgraph)


def _count(node: ir.Node, sizes: _OperandShapes) -> int | None:
    """Return the multiply-accumulates of a node and its subgraphs, or None if they are unknown."""
    formula = _formula(node)
    if formula is not None:
        shapes = [sizes.of(node.inputs[index]) if index < len(node.inputs) else () for index in formula.reads]
        out = sizes.of(node.outputs[0])
        known = [shape for shape in shapes if shape is not None]
        return None if out is None or len(known) < len(shapes) else formula.macs(node, known, out)
    if node.domain not in _STANDARD:
        return None
    inside = [_count_all(subgraph, sizes) for subgraph in subgraphs_of(node)]
    if not any(count != 0 for count in inside):
        return 0
    if node.op_type in _UNCOUNTED_LOOPS or None in inside:
        return None
    largest = max(count for count in inside if count is not None)
    if node.op_type != "Loop":
        return largest
    trips = node.inputs[0].const_value if node.inputs[0] is not None else None
    return None if trips is None else largest * int(trips.numpy().item())


def _count_all(graph: ir.Graph, sizes: _OperandShapes) -> int | None:
    total: int | None = 0
    for node in graph:
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
    """Return one MAC per combination of all indices; an Einsum with one operand has none."""
    terms = node.attributes.get_string("equation", "").replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, reads, strict=False):
        before, dots, after = term.partition("...")
        hidden = [f"...{index}" for index in range(len(shape) - len(before) - len(after), 0, -1)] if dots else []
        for label, size in zip([*before, *hidden, *after], shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return prod(sizes.values()) if len(terms) > 1 else 0


def _attention(node: ir.Node, reads: Sequence[Shape], _out: Shape) -> int:
    """Return the MACs of query times key and of weights times value.

    The operands are [B, heads, length, size] or [B, length, heads * size].
    """
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

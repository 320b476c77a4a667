"""Counts multiply-accumulates: what a stage costs until it has been measured."""

from collections.abc import Callable, Iterable, Mapping
from math import prod

import onnx_ir as ir

Shape = tuple[int, ...]


def operands(graph: ir.Graph) -> list[ir.Value]:
    """Return the values, weights excepted, whose shapes `count_macs` needs."""
    values = {
        value: None
        for node in graph
        if _formula(node) is not None
        for value in (*node.inputs[:2], *node.outputs[:1])
        if value is not None and value.const_value is None
    }
    return list(values)


def count_macs(nodes: Iterable[ir.Node], shapes: Mapping[str, Shape]) -> int:
    """Return the multiply-accumulates of convolutions and matrix products, given the shapes of `operands`.

    Products inside If and Loop bodies are not counted: how often those run is not known here.
    """

    def shape(value: ir.Value | None) -> Shape:
        if value is None:
            return ()
        return tuple(value.const_value.shape.numpy()) if value.const_value is not None else shapes[str(value.name)]

    total = 0
    for node in nodes:
        formula = _formula(node)
        if formula is not None:
            total += formula(node, shape(node.inputs[0]), shape(node.inputs[1]), shape(node.outputs[0]))
    return total


def cheaper_exit(graph: ir.Graph, shapes: Mapping[str, Shape]) -> str | None:
    """Say which exit takes fewer multiply-accumulates by itself than the one before it; such are seldom in order.

    None where there is no such exit, or where the graph has nodes whose cost is not counted. The graph must have no
    functions; `shapes` are those of `operands`.
    """
    if any(node.domain not in _STANDARD or node.op_type in _UNCOUNTED for node in graph):
        return None
    macs = [count_macs(_ancestors(value), shapes) for value in graph.outputs]
    for index in range(1, len(macs)):
        if macs[index] < macs[index - 1]:
            return (
                f"exit '{graph.outputs[index].name}' by itself takes {macs[index]:,} MACs, exit "
                f"'{graph.outputs[index - 1].name}' before it {macs[index - 1]:,}; are they returned shallow to deep?"
            )
    return None


def _ancestors(value: ir.Value) -> set[ir.Node]:
    """Return the nodes that a value needs, in a graph whose nodes have no bodies."""
    found: set[ir.Node] = set()
    pending: list[ir.Value | None] = [value]
    while pending:
        wanted = pending.pop()
        node = None if wanted is None else wanted.producer()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(node.inputs)
    return found


def is_product(node: ir.Node) -> bool:
    """Say whether a node is one of those that are counted: too dear to be run twice."""
    return _formula(node) is not None


def _formula(node: ir.Node) -> "_Formula | None":
    return _FORMULAS.get(node.op_type) if node.domain in _STANDARD else None


_Formula = Callable[[ir.Node, Shape, Shape, Shape], int]


def _conv(_node: ir.Node, _data: Shape, weight: Shape, out: Shape) -> int:
    return prod(out) * prod(weight[1:])


def _conv_transpose(_node: ir.Node, data: Shape, weight: Shape, _out: Shape) -> int:
    return prod(data) * prod(weight[1:])


def _matmul(_node: ir.Node, left: Shape, _right: Shape, out: Shape) -> int:
    return prod(out) * left[-1]


def _gemm(node: ir.Node, left: Shape, _right: Shape, out: Shape) -> int:
    return prod(out) * left[0 if node.attributes.get_int("transA", 0) else 1]


_FORMULAS: dict[str, _Formula] = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm}

_STANDARD = {"", "ai.onnx"}
_UNCOUNTED = {
    "Attention",
    "ConvInteger",
    "DeformConv",
    "Einsum",
    "GRU",
    "If",
    "LSTM",
    "Loop",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
    "Scan",
    "SequenceMap",
}
"""Operators that cost much, or have bodies, and have no formula here."""

"""Copies some of a model's nodes into a model of their own, without touching the rest."""

from collections.abc import Iterable, Sequence

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.graph import bodies


def extract(
    model: ir.Model, nodes: Sequence[ir.Node], *, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], name: str
) -> ir.Model:
    """Return a model of copies of `nodes`, in their order, and of the weights and functions that they need.

    Whatever else they read must be among `inputs`. The weights themselves are shared with `model`.
    """
    read = {value for node in nodes for value in reads_of(node)}
    graph = ir.GraphView(
        inputs,
        outputs,
        nodes=nodes,
        initializers=[value for value in model.graph.initializers.values() if value in read],
        opset_imports=model.graph.opset_imports,
        name=name,
    ).clone()
    result = ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        functions=[function.clone() for function in _functions(model, nodes)],
    )
    passes.RemoveUnusedOpsetsPass()(result)
    return result


def reads_of(node: ir.Node) -> list[ir.Value]:
    """Return what a node needs: its inputs, and what its bodies capture, at any depth."""
    reads = dict.fromkeys(value for value in node.inputs if value is not None)
    for body in bodies(node):
        own = {*body.inputs, *body.initializers.values(), *(value for inner in body for value in inner.outputs)}
        outside = [*(value for inner in body for value in reads_of(inner)), *body.outputs]
        reads |= dict.fromkeys(value for value in outside if value not in own)
    return list(reads)


def needed_for(graph: ir.Graph, values: Iterable[ir.Value]) -> list[ir.Node]:
    """Return the nodes of a graph that make `values`, and all that those need, in the graph's order."""
    needed: set[ir.Node] = set()
    pending = list(values)
    while pending:
        node = pending.pop().producer()
        if node is not None and node.graph is graph and node not in needed:
            needed.add(node)
            pending.extend(reads_of(node))
    return [node for node in graph if node in needed]


def _functions(model: ir.Model, nodes: Iterable[ir.Node]) -> list[ir.Function]:
    """Return the functions that nodes call, at any depth, in the model's order."""
    called: set[ir.OperatorIdentifier] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        pending.extend(inner for body in bodies(node) for inner in body)
        identifier = node.op_identifier()
        if identifier in model.functions and identifier not in called:
            called.add(identifier)
            pending.extend(model.functions[identifier])
    return [function for identifier, function in model.functions.items() if identifier in called]

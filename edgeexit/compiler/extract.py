"""Copies some nodes of a model into a new model, without changing the original."""

from collections.abc import Iterable, Sequence

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.graph import subgraphs_of


def extract(
    model: ir.Model, nodes: Sequence[ir.Node], *, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], name: str
) -> ir.Model:
    """Return a model of copies of `nodes`, in their order, with the initializers and functions that they need.

    All other values that the nodes read must be among `inputs`. The weights are shared with `model`, not copied.
    """
    read = {value for node in nodes for value in values_read_by(node)}
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
        functions=[function.clone() for function in _called_functions(model, nodes)],
    )
    passes.RemoveUnusedOpsetsPass()(result)
    return result


def values_read_by(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of a node, and the outer values that its subgraphs capture at any depth."""
    reads = dict.fromkeys(value for value in node.inputs if value is not None)
    for subgraph in subgraphs_of(node):
        inner_values = {
            *subgraph.inputs, *subgraph.initializers.values(), *(value for inner in subgraph for value in inner.outputs)
        }  # fmt: skip
        used = [*(value for inner in subgraph for value in values_read_by(inner)), *subgraph.outputs]
        reads |= dict.fromkeys(value for value in used if value not in inner_values)
    return list(reads)


def nodes_needed_for(graph: ir.Graph, values: Iterable[ir.Value]) -> list[ir.Node]:
    """Return the nodes of a graph that `values` depend on, in graph order."""
    needed: set[ir.Node] = set()
    pending = list(values)
    while pending:
        node = pending.pop().producer()
        if node is not None and node.graph is graph and node not in needed:
            needed.add(node)
            pending.extend(values_read_by(node))
    return [node for node in graph if node in needed]


def _called_functions(model: ir.Model, nodes: Iterable[ir.Node]) -> list[ir.Function]:
    """Return the functions that the nodes call at any depth, in the model's order."""
    called: set[ir.OperatorIdentifier] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        pending.extend(inner for subgraph in subgraphs_of(node) for inner in subgraph)
        identifier = node.op_identifier()
        if identifier in model.functions and identifier not in called:
            called.add(identifier)
            pending.extend(model.functions[identifier])
    return [function for identifier, function in model.functions.items() if identifier in called]

"""Builds one ONNX graph with early exits: every stage is in the else-branch of an If on the previous exit."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

OUTPUTS = ("logits", "prediction", "exit")
"""`[1, C] float32`, `[1] int64`, `[1] int64`, all of the exit taken."""


def nested_if(full_model: onnx.ModelProto, thresholds: Sequence[float], classes: int) -> onnx.ModelProto:
    """Return a graph for a single sample, which exits where the top-1 probability reaches the threshold.

    `full_model` has one output per exit. Weights are in the subgraph that uses them, so that ONNX Runtime can prepack
    them. The graph adds only softmax, maximum, argmax and the comparison.
    """
    body = _stage(full_model.graph, thresholds, classes, 0, set())
    graph = helper.make_graph(body.node, "nested_if", full_model.graph.input, body.output, body.initializer)
    model = helper.make_model(graph, opset_imports=full_model.opset_import, ir_version=full_model.ir_version)
    onnx.checker.check_model(model)
    return model


def _stage(graph: GraphProto, thresholds: Sequence[float], classes: int, index: int, known: set[str]) -> GraphProto:
    """Return a stage and all later ones; `known` are the values of the outer graphs."""
    exit_name = graph.output[index].name
    nodes = [node for node in _needed(graph, exit_name) if node.output[0] not in known]
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used - known]
    known |= {tensor.name for tensor in weights} | {name for node in nodes for name in node.output}
    outputs = [f"{name}.{index}" for name in OUTPUTS]
    logits, prediction, taken = outputs
    nodes += [
        helper.make_node("Identity", [exit_name], [logits]),
        helper.make_node("ArgMax", [logits], [prediction], axis=1, keepdims=0),
        helper.make_node("Constant", [], [taken], value=numpy_helper.from_array(np.array([index], np.int64))),
    ]
    if index < len(thresholds):
        threshold = numpy_helper.from_array(np.array(thresholds[index], np.float32))
        nodes += [
            helper.make_node("Softmax", [logits], [f"p.{index}"], axis=1),
            helper.make_node("ReduceMax", [f"p.{index}"], [f"p1.{index}"], keepdims=0),
            helper.make_node("Constant", [], [f"t.{index}"], value=threshold),
            helper.make_node("GreaterOrEqual", [f"p1.{index}", f"t.{index}"], [f"exits.{index}"]),
        ]
        ended = [f"{name}.ended" for name in outputs] if index else list(OUTPUTS)
        nodes.append(
            helper.make_node(
                "If",
                [f"exits.{index}"],
                ended,
                then_branch=_exit_branch(outputs, classes),
                else_branch=_stage(graph, thresholds, classes, index + 1, known),
            )
        )
        outputs = ended
    return helper.make_graph(nodes, f"stage{index}", [], _typed(outputs, classes), weights)


def _exit_branch(outputs: Sequence[str], classes: int) -> GraphProto:
    copies = [f"{name}.copy" for name in outputs]
    nodes = [helper.make_node("Identity", [name], [out]) for name, out in zip(outputs, copies, strict=True)]
    return helper.make_graph(nodes, "exit", [], _typed(copies, classes))


def _needed(graph: GraphProto, name: str) -> list[NodeProto]:
    """Return the nodes that compute a value, in order."""
    wanted, nodes = {name}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def _typed(names: Sequence[str], classes: int) -> list[onnx.ValueInfoProto]:
    logits, prediction, taken = names
    return [
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, (1, classes)),
        helper.make_tensor_value_info(prediction, TensorProto.INT64, (1,)),
        helper.make_tensor_value_info(taken, TensorProto.INT64, (1,)),
    ]

"""One ONNX graph that leaves early by itself: every stage stands in the else-branch of an If on the exit before it."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

OUTPUTS = ("logits", "prediction", "exit")
"""`[1, C] float32`, `[1] int64`, `[1] int64`: of the exit taken."""


def nested_if(whole: onnx.ModelProto, thresholds: Sequence[float], classes: int) -> onnx.ModelProto:
    """Return a graph with one output an exit as one for one sample that leaves where the top-1 probability is enough.

    Weights stand where they are used, so that ONNX Runtime can prepare them. Softmax, the maximum, its place and the
    comparison are all that is added.
    """
    body = _stage(whole.graph, thresholds, classes, 0, set())
    graph = helper.make_graph(body.node, "nested_if", whole.graph.input, body.output, body.initializer)
    model = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    onnx.checker.check_model(model)
    return model


def _stage(whole: GraphProto, thresholds: Sequence[float], classes: int, index: int, known: set[str]) -> GraphProto:
    """Return a stage and all after it; `known` are the values that the graphs around it have."""
    exit_name = whole.output[index].name
    nodes = [node for node in _needed(whole, exit_name) if node.output[0] not in known]
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in whole.initializer if tensor.name in used - known]
    known |= {tensor.name for tensor in weights} | {name for node in nodes for name in node.output}
    said = [f"{name}.{index}" for name in OUTPUTS]
    logits, prediction, taken = said
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
            helper.make_node("GreaterOrEqual", [f"p1.{index}", f"t.{index}"], [f"leaves.{index}"]),
        ]
        ended = [f"{name}.ended" for name in said] if index else list(OUTPUTS)
        nodes.append(
            helper.make_node(
                "If",
                [f"leaves.{index}"],
                ended,
                then_branch=_leave(said, classes),
                else_branch=_stage(whole, thresholds, classes, index + 1, known),
            )
        )
        said = ended
    return helper.make_graph(nodes, f"stage{index}", [], _typed(said, classes), weights)


def _leave(said: Sequence[str], classes: int) -> GraphProto:
    left = [f"{name}.left" for name in said]
    nodes = [helper.make_node("Identity", [name], [out]) for name, out in zip(said, left, strict=True)]
    return helper.make_graph(nodes, "leave", [], _typed(left, classes))


def _needed(graph: GraphProto, name: str) -> list[NodeProto]:
    """Return the nodes, in order, that make a value."""
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

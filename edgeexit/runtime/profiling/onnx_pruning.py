"""Removes graph outputs, and the nodes that only they need, from an ONNX model, without `onnx`."""

from collections.abc import Collection, Iterable
from typing import Any, Final

from edgeexit.bundle.onnx_messages import Fields, make_model_type, parse_model

_FIELDS: Final[Fields] = {
    "ModelProto": (("graph", 7, "GraphProto"),),
    "GraphProto": (("node", 1, "NodeProto[]"), ("output", 12, "ValueInfoProto[]")),
    "NodeProto": (("input", 1, "string[]"), ("output", 2, "string[]"), ("attribute", 5, "AttributeProto[]")),
    "AttributeProto": (("g", 6, "GraphProto"), ("graphs", 11, "GraphProto[]")),
    "ValueInfoProto": (("name", 1, "string"),),
}


def without_outputs(model: bytes, names: Collection[str]) -> bytes:
    """Return an ONNX model without the named graph outputs and without the nodes whose results are then unused.

    Raises ValueError if `model` is not an ONNX model.
    """
    parsed = parse_model(make_model_type(_FIELDS), model)
    outputs, nodes = parsed.graph.output, parsed.graph.node
    for index in reversed(range(len(outputs))):
        if outputs[index].name in names:
            del outputs[index]
    used = {output.name for output in outputs}
    # Nodes are in topological order: each one precedes those that read its outputs.
    for index in reversed(range(len(nodes))):
        if used.isdisjoint(nodes[index].output):
            del nodes[index]
        else:
            used |= _read_by(nodes[index : index + 1])
    return bytes(parsed.SerializeToString())


def _read_by(nodes: Iterable[Any]) -> set[str]:
    """Return the names of the tensors that nodes read, and those that their subgraphs read from the outer graph."""
    names: set[str] = set()
    for node in nodes:
        names.update(filter(None, node.input))  # an omitted optional input has an empty name
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                names |= _read_by(subgraph.node) | {output.name for output in subgraph.output}
    return names

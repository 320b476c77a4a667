"""Removes graph outputs, and the nodes that only they need, from an ONNX model on a device without the package `onnx`.

ONNX Runtime depends on `protobuf`, whose messages preserve fields that their type does not declare. So the types here
declare only what pruning reads, with the names and numbers of onnx.proto.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_FIELDS: Final = {
    "ModelProto": (("graph", 7, "GraphProto"),),
    "GraphProto": (("node", 1, "NodeProto"), ("output", 12, "ValueInfoProto")),
    "NodeProto": (("input", 1, None), ("output", 2, None), ("attribute", 5, "AttributeProto")),
    "AttributeProto": (("g", 6, "GraphProto"), ("graphs", 11, "GraphProto")),
    "ValueInfoProto": (("name", 1, None),),
}
"""Message type -> its fields: name, number, and message type or None for a string."""
_SINGULAR: Final = ("graph", "g", "name")


def without_outputs(model: bytes, names: Collection[str]) -> bytes:
    """Return an ONNX model without the named graph outputs and without the nodes whose results are then unused.

    Raises ValueError if `model` is not an ONNX model.
    """
    parsed = _model_type()()
    try:
        parsed.ParseFromString(model)
    except message.DecodeError as error:
        raise ValueError(f"these {len(model)} bytes are not an ONNX model: {error}") from error
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


def _model_type() -> Any:
    """Return the class of ModelProto, in a new descriptor pool, because the package `onnx` uses the default pool."""
    file = descriptor_pb2.FileDescriptorProto(name="pruning.proto", package="pruning")
    for type_name, fields in _FIELDS.items():
        declared = file.message_type.add(name=type_name)
        for name, number, nested in fields:
            field = declared.field.add(name=name, number=number)
            field.label = field.LABEL_OPTIONAL if name in _SINGULAR else field.LABEL_REPEATED
            field.type = field.TYPE_STRING if nested is None else field.TYPE_MESSAGE
            if nested is not None:
                field.type_name = f".pruning.{nested}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pruning.ModelProto"))

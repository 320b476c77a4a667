"""Reads the ONNX graphs of the stages, and finds the tensors whose data is in other files of the bundle.

Nothing else may make a runtime open a file: a graph is refused if it names a file that the manifest does not list, or
names one where the compiler never does.
"""

import functools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.manifest import StageSpec
from edgeexit.bundle.onnx_messages import Fields, make_model_type, parse_model
from edgeexit.errors import BundleError

_FIELDS: Final[Fields] = {
    "ModelProto": (
        ("graph", 7, "GraphProto"),
        ("training_info", 20, "TrainingInfoProto[]"),
        ("functions", 25, "FunctionProto[]"),
    ),
    "TrainingInfoProto": (("initialization", 1, "GraphProto"), ("algorithm", 2, "GraphProto")),
    "FunctionProto": (("node", 7, "NodeProto[]"), ("attribute_proto", 11, "AttributeProto[]")),
    "GraphProto": (
        ("node", 1, "NodeProto[]"),
        ("initializer", 5, "TensorProto[]"),
        ("sparse_initializer", 15, "SparseTensorProto[]"),
    ),
    "NodeProto": (("op_type", 4, "string"), ("attribute", 5, "AttributeProto[]")),
    "AttributeProto": (
        ("t", 5, "TensorProto"),
        ("g", 6, "GraphProto"),
        ("tensors", 10, "TensorProto[]"),
        ("graphs", 11, "GraphProto[]"),
        ("sparse_tensor", 22, "SparseTensorProto"),
        ("sparse_tensors", 23, "SparseTensorProto[]"),
    ),
    "SparseTensorProto": (("values", 1, "TensorProto"), ("indices", 2, "TensorProto")),
    "TensorProto": (
        ("dims", 1, "int64[]"),
        ("data_type", 2, "int32"),
        ("name", 8, "string"),
        ("external_data", 13, "StringStringEntryProto[]"),
        ("data_location", 14, "int32"),
    ),
    "StringStringEntryProto": (("key", 1, "string"), ("value", 2, "string")),
}
_ENGINE_NODE: Final = "EPContext"
"""An operator of ONNX Runtime that loads a compiled engine from a file."""


class StoredTensor(NamedTuple):
    """An initializer whose data is in a file of the bundle."""

    name: str
    data_type: int
    """Number in onnx.TensorProto.DataType."""
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int | None
    """In bytes; None: to be computed from type and shape."""


class StageGraph(NamedTuple):
    """The verified graph of a stage."""

    content: bytes
    """The ONNX file."""
    weights: tuple[StoredTensor, ...]


def read_stage_graph(bundle: Bundle, stage: StageSpec) -> StageGraph:
    """Return the verified graph of a stage, and its initializers that are in other files of the bundle.

    Raises BundleError if the file is damaged or is not an ONNX model, and if it names another file than those of the
    manifest.
    """
    content = bundle.read(stage.file)
    try:
        return StageGraph(content, find_weights(content, bundle.manifest.files))
    except ValueError as error:
        raise BundleError(f"bundle '{bundle.path}': {stage.file}: {error}; compile the bundle again") from error


def copy_stage_files(bundle: Bundle, folder: Path) -> None:
    """Copy the verified graphs and weights of all stages into `folder`, for a parser that opens files itself.

    Raises BundleError, as `read_stage_graph` does.
    """
    weights: set[str] = set()
    for stage in bundle.manifest.stages:
        graph = read_stage_graph(bundle, stage)
        (folder / stage.file).write_bytes(graph.content)
        weights |= {tensor.file for tensor in graph.weights}
    for name in weights:
        with (folder / name).open("wb") as file:
            file.writelines(bundle.read_chunks(name))


def find_weights(content: bytes, files: Collection[str]) -> tuple[StoredTensor, ...]:
    """Return the initializers of an ONNX model that are stored in other files, which must be among `files`.

    Raises ValueError for another file, and for anything but an initializer of the main graph that is in one.
    """
    model = parse_model(_model_type(), content)
    found = {}
    for tensor in model.graph.initializer:
        if _is_external(tensor):
            stored = _stored_tensor(tensor)
            if stored.file not in files:
                raise ValueError(f"weight '{stored.name}' is in file '{stored.file}', which the manifest does not list")
            if stored.name in found:
                raise ValueError(f"weight '{stored.name}' occurs twice")
            found[stored.name] = stored
    for tensor in _other_tensors(model):
        if _is_external(tensor):
            raise ValueError(f"tensor '{tensor.name}' is in a file, but is not an initializer of the main graph")
    return tuple(found.values())


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location) or len(tensor.external_data) > 0


def _stored_tensor(tensor: Any) -> StoredTensor:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data):
        raise ValueError(f"weight '{tensor.name}' has contradictory external data")
    try:
        offset, length = int(entries.get("offset", "0")), int(entries["length"]) if "length" in entries else None
    except ValueError as error:
        raise ValueError(f"weight '{tensor.name}' has no valid offset and length") from error
    if min(offset, length or 0, *tensor.dims) < 0:
        raise ValueError(f"weight '{tensor.name}' has a negative size")
    return StoredTensor(tensor.name, tensor.data_type, tuple(tensor.dims), entries.get("location", ""), offset, length)


def _other_tensors(model: Any) -> Iterator[Any]:
    """Yield all tensors but the initializers of the main graph. Raises ValueError for a node that loads an engine."""
    yield from _sparse(model.graph.sparse_initializer)
    yield from _in_nodes(model.graph.node)
    for function in model.functions:
        yield from _in_nodes(function.node)
        yield from _in_attributes(function.attribute_proto)
    for info in model.training_info:
        for graph in (info.initialization, info.algorithm):
            yield from _in_graph(graph)


def _in_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    yield from _sparse(graph.sparse_initializer)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        if node.op_type == _ENGINE_NODE:
            raise ValueError(f"it contains the operator {_ENGINE_NODE}, which reads a file")
        yield from _in_attributes(node.attribute)


def _in_attributes(attributes: Any) -> Iterator[Any]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from _sparse([attribute.sparse_tensor])
        yield from _sparse(attribute.sparse_tensors)
        if attribute.HasField("g"):
            yield from _in_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _in_graph(graph)


def _sparse(tensors: Any) -> Iterator[Any]:
    for tensor in tensors:
        yield tensor.values
        yield tensor.indices


@functools.cache
def _model_type() -> Any:
    return make_model_type(_FIELDS)

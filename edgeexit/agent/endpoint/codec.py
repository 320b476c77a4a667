"""Requests and responses of the Open Inference Protocol: bytes to arrays and back. No sockets, no model.

Open Inference Protocol v2 (github.com/kserve/open-inference-protocol), REST, with the binary tensor data extension
(github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md): behind the JSON, whose length is in
the header `Inference-Header-Content-Length`, stand the tensors' bytes in the order in which the JSON names them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec

from edgeexit.agent.endpoint.tensors import (
    Array,
    datatype_of,
    tensor_from_bytes,
    tensor_from_json,
    tensor_to_bytes,
    tensor_to_json,
)
from edgeexit.errors import ProtocolError
from edgeexit.runtime import Inference

OUTPUTS: Final = ("predictions", "exits", "outputs", "readouts", "latency_ms")
"""The outputs on offer, named as in `Inference`."""

_MAX_ID: Final = 256
_MAX_DIMENSIONS: Final = 16
_NOT_JSON: Final = re.compile(rb"[\[,:\s]-?(?:NaN|Infinity)[\],}\s]")
_MAX_DIMENSION: Final = 2**63 - 1

T = TypeVar("T")
RequestId = Annotated[str, msgspec.Meta(max_length=_MAX_ID)]


class Wanted(NamedTuple):
    """An output that was asked for, and whether as bytes."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """What a client asks."""

    id: str | None
    inputs: dict[str, Array]
    """Views of the request's bytes where the data is binary."""
    outputs: tuple[Wanted, ...]


class _Parameters(msgspec.Struct):
    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False
    classification: int | None = None
    shared_memory_region: str | None = None


class _Input(msgspec.Struct):
    name: str
    shape: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0, le=_MAX_DIMENSION)]], msgspec.Meta(max_length=_MAX_DIMENSIONS)
    ]
    datatype: str
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)


class _InferDocument(msgspec.Struct):
    inputs: list[_Input]
    id: RequestId | None = None
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)
    outputs: list[_Output] | None = None


class _ResponseTensor(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class _Response(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_ResponseTensor]
    parameters: dict[str, str | int]
    id: str | None = None


class EncodedResponse(NamedTuple):
    """A response's body, and the length of its JSON where bytes follow it."""

    body: bytes
    header_length: int | None


class Feedback(msgspec.Struct, frozen=True):
    """The body of a feedback request: the true class of the one sample, or of each sample, of an inference."""

    id: RequestId
    label: int | list[int]


def decode_request(body: bytes | bytearray, header_length: int | None, *, inputs: Sequence[str]) -> InferRequest:
    """Return what a request asks of a model with these inputs.

    Args:
        body: of the request.
        header_length: the header `Inference-Header-Content-Length`; None where there is none, and all is JSON.
        inputs: names of the model's inputs.

    Raises ProtocolError that names the field.

    """
    view = memoryview(body)
    length = len(view) if header_length is None else header_length
    if not 0 <= length <= len(view):
        raise ProtocolError(f"Inference-Header-Content-Length is {length} where the body has {len(view)} bytes")
    request = _decode(view[:length], _InferDocument)
    arrays: dict[str, Array] = {}
    rest = view[length:]
    for tensor in request.inputs:
        if tensor.name not in inputs:
            raise ProtocolError(f"input '{tensor.name}' is none of the model's; it has {', '.join(inputs)}")
        if tensor.name in arrays:
            raise ProtocolError(f"input '{tensor.name}' is given twice")
        arrays[tensor.name], rest = _tensor(tensor, rest)
    if len(rest):
        raise ProtocolError(f"{len(rest)} bytes follow the tensors that the request names")
    return InferRequest(id=request.id or None, inputs=arrays, outputs=_wanted(request))


def encode_response(
    result: Inference,
    wanted: Sequence[Wanted],
    *,
    model: str,
    version: str,
    request_id: str | None,
    parameters: dict[str, str | int],
) -> EncodedResponse:
    """Return the response that holds the wanted outputs of an inference, in their order."""
    tensors, behind = [], []
    for name, binary in wanted:
        array: Array = getattr(result, name)
        tensor = _ResponseTensor(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        if binary:
            behind.append(tensor_to_bytes(array))
            tensor.parameters = {"binary_data_size": len(behind[-1])}
        else:
            tensor.data = tensor_to_json(array)
        tensors.append(tensor)
    header = msgspec.json.encode(
        _Response(model_name=model, model_version=version, id=request_id, parameters=parameters, outputs=tensors)
    )
    return EncodedResponse(b"".join((header, *behind)), len(header) if behind else None)


def decode_feedback(body: bytes | bytearray) -> Feedback:
    """Return what a feedback request says. Raises ProtocolError that names the field."""
    return _decode(memoryview(body), Feedback)


def encode_json(document: msgspec.Struct | Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Return a document as JSON."""
    return msgspec.json.encode(document)


def _decode(content: memoryview, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _NOT_JSON.search(content):
            raise ProtocolError("JSON has no NaN and no infinity; send the tensor as binary data") from error
        raise ProtocolError(f"the request's JSON is not as it should be: {error}") from error


def _tensor(tensor: _Input, rest: memoryview) -> tuple[Array, memoryview]:
    """Return an input's array, and the bytes behind it."""
    name, size = tensor.name, tensor.parameters.binary_data_size
    if tensor.parameters.shared_memory_region is not None:
        raise ProtocolError(f"input '{name}' is in shared memory, which is not served; send its data")
    data = bytes(tensor.data)
    if size is None:
        if not data:
            raise ProtocolError(f"input '{name}' has neither data nor binary_data_size")
        return tensor_from_json(name, tensor.datatype, tensor.shape, data), rest
    if data:
        raise ProtocolError(f"input '{name}' has both data and binary_data_size")
    if size > len(rest):
        raise ProtocolError(f"input '{name}' should have {size} bytes where {len(rest)} are left in the body")
    return tensor_from_bytes(name, tensor.datatype, tensor.shape, rest[:size]), rest[size:]


def _wanted(request: _InferDocument) -> tuple[Wanted, ...]:
    """Return the outputs to give: those asked for, or all. Raises ProtocolError for one that is not on offer."""
    by_default = request.parameters.binary_data_output
    if not request.outputs:
        return tuple(Wanted(name, by_default) for name in OUTPUTS)
    wanted: dict[str, Wanted] = {}
    for output in request.outputs:
        name, parameters = output.name, output.parameters
        if name not in OUTPUTS:
            raise ProtocolError(f"output '{name}' is not on offer; there are {', '.join(OUTPUTS)}")
        if name in wanted:
            raise ProtocolError(f"output '{name}' is asked for twice")
        if parameters.classification is not None or parameters.shared_memory_region is not None:
            raise ProtocolError(f"output '{name}' is given as a tensor; no classification, no shared memory")
        wanted[name] = Wanted(name, by_default if parameters.binary_data is None else parameters.binary_data)
    return tuple(wanted.values())

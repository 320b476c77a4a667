"""Decodes requests and encodes responses of the Open Inference Protocol. No sockets, no model.

Open Inference Protocol v2 (github.com/kserve/open-inference-protocol), REST, with the binary tensor data extension
(github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md): the header
`Inference-Header-Content-Length` holds the length of the JSON, and the bytes of the tensors follow the JSON in the
order in which it lists them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np

from edgeexit.agent.endpoint.tensors import (
    Array,
    datatype_of,
    dtype_of,
    tensor_from_bytes,
    tensor_from_json,
    tensor_from_numbers,
    tensor_to_bytes,
    tensor_to_json,
)
from edgeexit.bundle.manifest import COMPANION_PREFIX
from edgeexit.errors import ProtocolError
from edgeexit.runtime import Inference

OUTPUTS: Final = ("predictions", "exits", "outputs", "readouts", "latency_ms")
"""Names of the output tensors of a response by default: fields of `Inference`. Companions must be requested."""

_MAX_ID: Final = 256
_MAX_DIMENSIONS: Final = 16
_NOT_JSON: Final = re.compile(rb"[\[,:\s]-?(?:NaN|Infinity)[\],}\s]")
"""NaN or infinity as a value, as Python's `json.dumps` writes them although JSON does not allow it."""
_MAX_DIMENSION: Final = 2**63 - 1
_FLOATS: Final = ("FP32", "FP64")
_MAX_SHAPE_BYTES: Final = 512
_LONG_BYTES: Final = 64 * 1024
_MAX_FLAT_BYTES: Final = 256 * 1024
_MAX_OBJECTS: Final = 1024
"""Maximum number of objects in a JSON of more than 64 KiB, whose length should be in the data of few tensors."""

T = TypeVar("T")
Dimension = Annotated[int, msgspec.Meta(ge=0, le=_MAX_DIMENSION)]
_Shape = Annotated[list[Dimension], msgspec.Meta(max_length=_MAX_DIMENSIONS)]
RequestId = Annotated[str, msgspec.Meta(max_length=_MAX_ID)]


class AcceptedInputs(Protocol):
    """The inputs that the model takes."""

    @property
    def names(self) -> Sequence[str]:
        """Their names."""

    @property
    def are_floats(self) -> bool:
        """True if all are FP32 or FP64, so that their data is probably lists of numbers."""

    def check(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Raise DataError if the model does not take an input of this dtype and shape."""


class RequestedOutput(NamedTuple):
    """An output that the client requests, as bytes (`binary`) or as JSON."""

    name: str
    binary: bool


_ALL_OUTPUTS: Final = {
    binary: tuple(RequestedOutput(name, binary=binary) for name in OUTPUTS) for binary in (False, True)
}
"""What a request gets that names no outputs."""


class InferRequest(NamedTuple):
    """A decoded inference request; `outputs` holds `OUTPUTS` if the client requests none by name."""

    id: str | None
    inputs: dict[str, Array]
    """Input name -> array; a view of the request's bytes if the data is binary."""
    outputs: tuple[RequestedOutput, ...]


class _Parameters(msgspec.Struct):
    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    binary_data: bool | None = None
    binary_data_output: bool | None = None
    classification: int | None = None
    """Number of classes to return instead of the tensor; 0: the tensor."""
    shared_memory_region: str | None = None


_NO_PARAMETERS: Final = _Parameters()
_NULL: Final = b"null"
"""Some clients write optional fields that have no value as null, which means the same as leaving them out."""


class _Input(msgspec.Struct):
    name: str
    shape: msgspec.Raw
    datatype: str
    parameters: _Parameters | None = None
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _FlatInput(msgspec.Struct):
    """An input whose data is a flat list of numbers."""

    name: str
    shape: msgspec.Raw
    datatype: str
    parameters: _Parameters | None = None
    data: list[float] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters | None = None


class _InferDocument(msgspec.Struct):
    inputs: list[_Input]
    id: RequestId | None = None
    parameters: _Parameters | None = None
    outputs: list[_Output] | None = None


class _FlatDocument(msgspec.Struct):
    """The most frequent request, which can be decoded at once."""

    inputs: list[_FlatInput]
    id: RequestId | None = None
    parameters: _Parameters | None = None
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
    """The body of a response, and the length of its JSON (None if no bytes follow it)."""

    body: bytes
    header_length: int | None


class Feedback(msgspec.Struct, frozen=True):
    """The body of a feedback request: one true class for an inference of one sample, else one per sample."""

    id: RequestId
    label: int | list[int]


def decode_request(
    body: bytes | bytearray, header_length: int | None, *, inputs: AcceptedInputs, outputs: Sequence[str] = OUTPUTS
) -> InferRequest:
    """Decode an inference request.

    Args:
        body: the body of the request.
        header_length: value of the header `Inference-Header-Content-Length`; None: the body is JSON only.
        inputs: the model's inputs; a tensor is checked against them before its data is decoded.
        outputs: names of the outputs that a client may request.

    Raises ProtocolError, which names the field, and DataError for a tensor that the model does not take.

    """
    view = memoryview(body)
    length = len(view) if header_length is None else header_length
    if not 0 <= length <= len(view):
        raise ProtocolError(f"Inference-Header-Content-Length is {length}, but the body has {len(view)} bytes")
    if length > _LONG_BYTES and body.count(b"{", 0, length) > _MAX_OBJECTS:
        raise ProtocolError(f"the JSON of the request has more than {_MAX_OBJECTS} objects")
    request = _decode_document(view[:length], inputs)
    arrays: dict[str, Array] = {}
    rest = view[length:]
    for tensor in request.inputs:
        if tensor.name not in inputs.names:
            raise ProtocolError(
                f"the model has no input '{tensor.name[:100]}'; its inputs are {', '.join(inputs.names)}"
            )
        if tensor.name in arrays:
            raise ProtocolError(f"input '{tensor.name}' is given twice")
        shape = _decode_shape(tensor)
        inputs.check(tensor.name, dtype_of(tensor.name, tensor.datatype), shape)
        arrays[tensor.name], rest = _decode_tensor(tensor, shape, rest)
    if len(rest):
        raise ProtocolError(f"the body is longer than its tensors need; bytes left over: {len(rest)}")
    return InferRequest(id=request.id or None, inputs=arrays, outputs=_requested_outputs(request, outputs))


def encode_response(
    result: Inference,
    outputs: Sequence[RequestedOutput],
    *,
    model: str,
    version: str,
    request_id: str | None,
    parameters: dict[str, str | int],
) -> EncodedResponse:
    """Encode a response with the requested outputs, in the requested order."""
    tensors, binary_parts = [], []
    for name, binary in outputs:
        is_companion = name.startswith(COMPANION_PREFIX)
        array: Array = result.companions[name.removeprefix(COMPANION_PREFIX)] if is_companion else getattr(result, name)
        tensor = _ResponseTensor(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        if binary:
            binary_parts.append(tensor_to_bytes(array))
            tensor.parameters = {"binary_data_size": len(binary_parts[-1])}
        else:
            tensor.data = tensor_to_json(array)
        tensors.append(tensor)
    header = msgspec.json.encode(
        _Response(model_name=model, model_version=version, id=request_id, parameters=parameters, outputs=tensors)
    )
    return EncodedResponse(b"".join((header, *binary_parts)), len(header) if binary_parts else None)


def decode_feedback(body: bytes | bytearray) -> Feedback:
    """Decode a feedback request. Raises ProtocolError, which names the field."""
    return _decode(memoryview(body), Feedback)


def encode_json(document: msgspec.Struct | Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Encode a document as JSON."""
    return msgspec.json.encode(document)


def _decode(content: memoryview, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _NOT_JSON.search(content):
            raise ProtocolError("JSON cannot represent NaN and infinity; send the tensor as binary data") from error
        raise ProtocolError(f"the JSON of the request is not valid: {error}") from error


def _decode_document(content: memoryview, inputs: AcceptedInputs) -> _InferDocument | _FlatDocument:
    if inputs.are_floats and len(content) <= _MAX_FLAT_BYTES:
        try:
            document = msgspec.json.decode(content, type=_FlatDocument)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # nested, or not valid, which the other document reports
        else:
            if all(tensor.datatype in _FLOATS and tensor.data != [] for tensor in document.inputs):
                return document
    return _decode(content, _InferDocument)


def _decode_shape(tensor: _Input | _FlatInput) -> tuple[int, ...]:
    text = memoryview(tensor.shape)
    if len(text) > _MAX_SHAPE_BYTES:
        raise ProtocolError(f"the shape of input '{tensor.name}' is not valid: it has {len(text)} characters")
    try:
        return tuple(msgspec.json.decode(text, type=_Shape))
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the shape of input '{tensor.name}' is not valid: {error}") from error


def _decode_tensor(tensor: _Input | _FlatInput, shape: tuple[int, ...], rest: memoryview) -> tuple[Array, memoryview]:
    """Return the array of an input, and the bytes that follow it."""
    name, parameters = tensor.name, tensor.parameters or _NO_PARAMETERS
    size = parameters.binary_data_size
    if parameters.shared_memory_region is not None:
        raise ProtocolError(f"input '{name}' is in shared memory, which is not supported; send its data")
    data: memoryview | list[float] | None
    if isinstance(tensor.data, msgspec.Raw):
        text = memoryview(tensor.data)
        data = None if len(text) == len(_NULL) and bytes(text) == _NULL else text
    else:
        data = tensor.data
    if size is None:
        if not data:
            raise ProtocolError(f"input '{name}' has neither data nor binary_data_size; send one of them")
        if isinstance(data, list):
            return tensor_from_numbers(name, tensor.datatype, shape, data), rest
        return tensor_from_json(name, tensor.datatype, shape, data), rest
    if data:
        raise ProtocolError(f"input '{name}' has both data and binary_data_size; send one of them")
    if size > len(rest):
        raise ProtocolError(f"input '{name}' needs {size} bytes, but only {len(rest)} are left in the body")
    return tensor_from_bytes(name, tensor.datatype, shape, rest[:size]), rest[size:]


def _requested_outputs(request: _InferDocument | _FlatDocument, known: Sequence[str]) -> tuple[RequestedOutput, ...]:
    """Return the outputs that the request names, or `OUTPUTS`. Raises ProtocolError for an output that is not known."""
    by_default = bool((request.parameters or _NO_PARAMETERS).binary_data_output)
    if not request.outputs:
        return _ALL_OUTPUTS[by_default]
    requested: dict[str, RequestedOutput] = {}
    for output in request.outputs:
        name, parameters = output.name, output.parameters or _NO_PARAMETERS
        if name not in known:
            raise ProtocolError(f"there is no output '{name[:100]}'; the outputs are {', '.join(known)}")
        if name in requested:
            raise ProtocolError(f"output '{name}' is requested twice")
        if parameters.classification or parameters.shared_memory_region is not None:
            raise ProtocolError(
                f"output '{name}' is only available as a tensor; classification and shared memory are not supported"
            )
        requested[name] = RequestedOutput(
            name, by_default if parameters.binary_data is None else parameters.binary_data
        )
    return tuple(requested.values())

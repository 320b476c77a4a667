"""Tensors in the encodings of the Open Inference Protocol: datatypes, JSON lists and little-endian bytes."""

import math
import re
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.agent.endpoint.json_numbers import read_numbers
from edgeexit.errors import ProtocolError

Array = npt.NDArray[Any]

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_NESTED: Final = re.compile(rb"\s*\[\s*\[")
_JSON_TYPES: Final[dict[str, type]] = {"b": bool, "i": int, "u": int, "f": float}
"""Kind of a numpy dtype -> type of an element in JSON."""
_LONG_BYTES: Final = 64 * 1024
"""A JSON list of more bytes is decoded in chunks."""


def datatype_of(dtype: str | np.dtype[Any]) -> str:
    """Return the protocol's datatype for a numpy dtype. Raises ProtocolError for a dtype that it does not define."""
    datatype = _DATATYPES.get(np.dtype(dtype)) or _DATATYPES.get(np.dtype(dtype).newbyteorder("<"))
    if datatype is None:
        raise ProtocolError(f"dtype {dtype} has no datatype in the protocol, which defines {', '.join(_DTYPES)}")
    return datatype


def dtype_of(name: str, datatype: str) -> np.dtype[Any]:
    """Return the numpy dtype of an input's datatype. Raises ProtocolError if the protocol does not define it."""
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        raise ProtocolError(f"input '{name}' has datatype '{datatype[:100]}'; supported are {', '.join(_DTYPES)}")
    return dtype


def tensor_from_json(name: str, datatype: str, shape: Sequence[int], text: memoryview) -> Array:
    """Return the tensor in a JSON list, which is nested like the shape or flat, in row-major order.

    Raises ProtocolError for FP16, which JSON cannot represent; for elements of the wrong type or out of range; and if
    the number of elements does not fit the shape.
    """
    dtype = dtype_of(name, datatype)
    if datatype == "FP16":
        raise ProtocolError(f"input '{name}' is FP16, which JSON cannot represent; send it as binary data")
    kind = _JSON_TYPES[dtype.kind]
    try:
        if len(text) > _LONG_BYTES:
            return read_numbers(text, kind, dtype, shape, partial(_to_array, dtype=dtype)).reshape(shape)
        data = bytes(text)
        _check_count(data, shape)
        depth = len(shape) if _NESTED.match(data) else 1
        nested = reduce(lambda inner, _: list[inner], range(depth), kind)  # type: ignore[valid-type]
        array = _to_array(msgspec.json.decode(data, type=nested), dtype)
    except (msgspec.DecodeError, OverflowError, ValueError, TypeError) as error:
        raise ProtocolError(f"the data of input '{name}' is not {datatype} of shape {list(shape)}: {error}") from error
    if depth > 1 and array.size and array.shape != tuple(shape):
        raise ProtocolError(f"input '{name}' has data of shape {list(array.shape)}, but its shape is {list(shape)}")
    return _reshape(name, datatype, array, shape)


def tensor_from_numbers(name: str, datatype: str, shape: Sequence[int], values: list[float]) -> Array:
    """Return the tensor of a flat list in row-major order. Raises ProtocolError if it does not fit the shape."""
    if len(values) != math.prod(shape):
        raise ProtocolError(
            f"the data of input '{name}' is not {datatype} of shape {list(shape)}: "
            f"its number of elements is {len(values)}"
        )
    return _reshape(name, datatype, _to_array(values, dtype_of(name, datatype)), shape)


def tensor_from_bytes(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Array:
    """Return the tensor in little-endian bytes, in row-major order, as a view of `data`.

    Raises ProtocolError if the number of bytes does not fit the shape, and for a BOOL that is neither 0 nor 1.
    """
    dtype = dtype_of(name, datatype)
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ProtocolError(
            f"input '{name}' has {len(data)} bytes, but {datatype} of shape {list(shape)} needs "
            f"{math.prod(shape) * dtype.itemsize} bytes"
        )
    if datatype == "BOOL" and len(data) and np.frombuffer(data, dtype="u1").max() > 1:
        raise ProtocolError(f"input '{name}' is BOOL, but has a byte that is neither 0 nor 1")
    return _reshape(name, datatype, np.frombuffer(data, dtype=dtype), shape)


def tensor_to_json(array: Array) -> list[Any]:
    """Return a flat list in row-major order; the JSON encoder writes NaN and infinity as null."""
    values: list[Any] = (array if array.ndim == 1 else array.ravel()).tolist()
    return values


def tensor_to_bytes(array: Array) -> bytes:
    """Return the little-endian bytes in row-major order."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def _check_count(data: bytes, shape: Sequence[int]) -> None:
    """Raise ValueError if a list has another number of elements: counting is cheap, decoding is not."""
    elements, expected = data.count(b",") + 1, math.prod(shape)
    if expected and elements != expected:
        raise ValueError(f"its number of elements is {elements}")


def _to_array(values: list[Any], dtype: np.dtype[Any]) -> Array:
    """Convert nested lists to an array. Raises ValueError for ragged lists, OverflowError for integers out of range."""
    if dtype.kind not in "iu":
        with np.errstate(over="ignore"):  # a double that is too large for float32 becomes infinity
            return np.array(values, dtype=dtype)
    try:
        exact = np.array(values, dtype=np.int64)
    except OverflowError:
        exact = np.array(values, dtype=object)  # Python integers, because numpy would wrap or round
    limits = np.iinfo(dtype)
    if exact.size and not (limits.min <= exact.min() and exact.max() <= limits.max):
        raise OverflowError(f"a number is not in the range from {limits.min} to {limits.max}")
    return exact.astype(dtype)


def _reshape(name: str, datatype: str, flat: Array, shape: Sequence[int]) -> Array:
    try:
        return flat.reshape(tuple(shape))
    except (ValueError, OverflowError) as error:
        raise ProtocolError(
            f"the data of input '{name}' is not {datatype} of shape {list(shape)}: "
            f"its number of elements is {flat.size}"
        ) from error

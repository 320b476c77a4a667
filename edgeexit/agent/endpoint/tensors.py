"""Tensors as the Open Inference Protocol writes them: datatypes, JSON lists, and little-endian bytes."""

import math
import re
from collections.abc import Sequence
from functools import reduce
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

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
_ELEMENTS: Final[dict[str, type]] = {"b": bool, "i": int, "u": int, "f": float}
"""What a number of each kind of dtype is in JSON."""


def datatype_of(dtype: str | np.dtype[Any]) -> str:
    """Return the protocol's word for a numpy dtype. Raises ProtocolError for one that it has no word for."""
    found = _DATATYPES.get(np.dtype(dtype).newbyteorder("<"))
    if found is None:
        raise ProtocolError(f"dtype {dtype} has no datatype in the protocol; there are {', '.join(_DTYPES)}")
    return found


def tensor_from_json(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Array:
    """Return the tensor that a JSON list holds, nested as its shape or flat, in row-major order.

    Raises ProtocolError for FP16, which has no form in JSON, for elements of another kind or out of range, and for
    another number of them than the shape says.
    """
    dtype = _dtype(name, datatype)
    if datatype == "FP16":
        raise ProtocolError(f"input '{name}' is FP16, which JSON cannot hold; send it as binary data")
    elements, wanted = data.count(b",") + 1, math.prod(shape)  # nested or flat; to count is cheap, and decoding is not
    if wanted and elements != wanted:
        raise ProtocolError(
            f"input '{name}' does not hold {datatype} in shape {list(shape)}: it is a list of {elements} elements"
        )
    depth = len(shape) if _NESTED.match(data) else 1
    kind = reduce(lambda inner, _: list[inner], range(depth), _ELEMENTS[dtype.kind])  # type: ignore[valid-type]
    try:
        found = _as_array(msgspec.json.decode(data, type=kind), dtype)
    except (msgspec.DecodeError, OverflowError, ValueError, TypeError) as error:
        raise ProtocolError(f"input '{name}' does not hold {datatype} in shape {list(shape)}: {error}") from error
    if depth > 1 and found.size and found.shape != tuple(shape):
        raise ProtocolError(f"input '{name}' is a list of shape {list(found.shape)} where it says {list(shape)}")
    return _shaped(name, found, shape)


def tensor_from_bytes(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Array:
    """Return the tensor in little-endian bytes, row-major, without copying them.

    Raises ProtocolError for another number of bytes than the shape says, and for a BOOL that is neither 0 nor 1.
    """
    dtype = _dtype(name, datatype)
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ProtocolError(
            f"input '{name}' has {len(data)} bytes where {datatype} in shape {list(shape)} takes "
            f"{math.prod(shape) * dtype.itemsize}"
        )
    if datatype == "BOOL" and len(data) and np.frombuffer(data, dtype="u1").max() > 1:
        raise ProtocolError(f"input '{name}' is BOOL and has a byte that is neither 0 nor 1")
    return _shaped(name, np.frombuffer(data, dtype=dtype), shape)


def tensor_to_json(array: Array) -> list[Any]:
    """Return a flat list in row-major order; what is not a finite number becomes null when it is written."""
    values: list[Any] = array.ravel().tolist()
    return values


def tensor_to_bytes(array: Array) -> bytes:
    """Return little-endian bytes in row-major order."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    found = _DTYPES.get(datatype)
    if found is None:
        raise ProtocolError(f"input '{name}' has datatype '{datatype}'; there are {', '.join(_DTYPES)}")
    return found


def _as_array(values: list[Any], dtype: np.dtype[Any]) -> Array:
    """Return nested lists as an array. Raises ValueError for ragged ones and OverflowError for what does not fit."""
    if dtype.kind not in "iu":
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinity, and is dealt with as such
            return np.array(values, dtype=dtype)
    exact = np.array(values, dtype=object)  # whole numbers of any size, which numpy would wrap or round
    limits = np.iinfo(dtype)
    if exact.size and not (limits.min <= exact.min() and exact.max() <= limits.max):
        raise OverflowError(f"a number is not from {limits.min} to {limits.max}")
    return exact.astype(dtype)


def _shaped(name: str, flat: Array, shape: Sequence[int]) -> Array:
    try:
        return flat.reshape(tuple(shape))
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"input '{name}' has {flat.size} elements, which do not fit shape {list(shape)}") from error

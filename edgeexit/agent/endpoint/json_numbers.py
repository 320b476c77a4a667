"""Decodes a long JSON list of numbers in chunks, so that it never exists as Python objects in full.

A Python float takes 32 bytes in a list, while its text may be as short as two characters. The text of the list is valid
JSON already; nested or flat, its brackets and commas alone tell whether it has the expected shape.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

_CHUNK_BYTES: Final = 32 * 1024
_STRUCTURE: Final = b"[],"
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(_STRUCTURE))
_BRACKETS_TO_SPACES: Final = bytes.maketrans(b"[]", b"  ")

Array = npt.NDArray[Any]


def read_numbers(
    text: memoryview, kind: type, dtype: np.dtype[Any], shape: Sequence[int], to_array: Callable[[list[Any]], Array]
) -> Array:
    """Return the numbers of a JSON list, flat [n] in row-major order.

    Args:
        text: a list that is valid JSON, nested like `shape` or flat.
        kind: type of an element in JSON.
        dtype: dtype of the result.
        shape: the expected shape.
        to_array: converts the elements of a chunk to an array of `dtype`.

    Raises ValueError if the list does not have this shape, and msgspec.DecodeError for an element of another type.

    """
    count = math.prod(shape)
    if count > len(text) or not _has_shape(text, shape):
        raise ValueError("the list does not have this shape")
    numbers = np.empty(count, dtype=dtype)
    position = 0
    for chunk in _chunks(text):
        values = to_array(msgspec.json.decode(b"[%b]" % chunk.translate(_BRACKETS_TO_SPACES), type=list[kind]))  # type: ignore[valid-type]
        numbers[position : position + len(values)] = values
        position += len(values)
    return numbers


def _has_shape(text: memoryview, shape: Sequence[int]) -> bool:
    """Return True if the brackets and commas of a list are those of a flat list, or of a nested one, of this shape."""
    found = b"".join(
        bytes(text[start : start + _CHUNK_BYTES]).translate(None, _NOT_STRUCTURE)
        for start in range(0, len(text), _CHUNK_BYTES)
    )
    return found in (_structure([math.prod(shape)], len(found)), _structure(shape, len(found)))


def _structure(shape: Sequence[int], limit: int) -> bytes:
    """Return the brackets and commas of a nested list; something else if there would be more than `limit`."""
    row = b""
    for size in reversed(shape):
        if not size or (len(row) + 1) * size > limit:
            return b""
        row = b"[%b%b]" % ((row + b",") * (size - 1), row)
    return row


def _chunks(text: memoryview) -> Iterator[bytes]:
    """Yield the text between commas about every 32 KiB."""
    start = 0
    while len(text) - start > _CHUNK_BYTES:
        chunk = bytes(text[start : start + _CHUNK_BYTES])
        end = chunk.rfind(b",")
        if end < 0:
            raise ValueError(f"it has a number or a gap of more than {_CHUNK_BYTES} characters")
        yield chunk[:end]
        start += end + 1
    yield bytes(text[start:])

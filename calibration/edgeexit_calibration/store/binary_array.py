"""Parameters that are arrays of PostgreSQL, in its binary format.

psycopg encodes an array element by element in Python, which costs more than everything else that a statement with
thousands of rows needs from it. Here NumPy encodes numbers, and bytes are joined.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

import numpy as np

_HEAD: Final = Struct(">iiIii")
"""Number of dimensions, whether there are nulls, id of the type of the elements, length, first index."""
_SIZE: Final = Struct(">i")
_NULL: Final = _SIZE.pack(-1)
_NUMBERS: Final = {"INTEGER": (23, ">i4"), "BIGINT": (20, ">i8"), "DOUBLE PRECISION": (701, ">f8")}
_BYTES: Final = {"BYTEA": 17, "TEXT": 25}
"""Type -> its id, which is the same on every server, and how NumPy writes it."""


class BinaryArray:
    """An encoded array; the connection sends `data` as it is.

    The statement must cast the parameter to the type of the array: `%b::bigint[]`.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def binary_array(type_name: str, values: Sequence[Any]) -> BinaryArray | list[Any]:
    """Return values encoded as an array of this type; a list that psycopg encodes, for other types and for nulls."""
    has_null = None in values
    if type_name in _NUMBERS and not has_null:
        number, form = _NUMBERS[type_name]
        items = np.empty(len(values), [("size", ">i4"), ("value", form)])
        items["value"] = values
        items["size"] = items.dtype["value"].itemsize
        return BinaryArray(_HEAD.pack(1, 0, number, len(values), 1) + items.tobytes())
    if type_name not in _BYTES:
        return list(values)
    pieces = [_HEAD.pack(1, has_null, _BYTES[type_name], len(values), 1)]
    for value in values:
        if value is None:
            pieces.append(_NULL)
        else:
            content = value.encode() if isinstance(value, str) else value
            pieces += (_SIZE.pack(len(content)), content)
    return BinaryArray(b"".join(pieces))

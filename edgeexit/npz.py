"""Writes `.npz` files whose bytes depend only on the arrays, and reads them without trusting them."""

import io
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.files import write_atomic

_END_OF_ZIP: Final = struct.Struct("<4s4H2LH")
"""Signature, 2 disk numbers, 2 numbers of members, bytes and offset of the directory, and bytes of a comment."""
_LOCATOR_BYTES: Final = 20
"""Before the end: the place of another directory, that of a large archive (ZIP64)."""
_MAX_ENTRY_BYTES: Final = 1024
"""Max bytes of one member in the directory: 46, its name, and fields for large files."""
_ENCRYPTED: Final = 0x1


class ArrayType(NamedTuple):
    """What an array must be. A size of None may be any."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an .npz file atomically; the same arrays give the same bytes.

    `numpy.savez` is not used, because it rejects an array named `file` and, depending on its version, takes an array
    named `allow_pickle` as an option. Raises ValueError for arrays of Python objects, and OSError if writing fails.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def load_declared(content: bytes, declared: Mapping[str, ArrayType]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays in the bytes of a file that `save_arrays` wrote.

    The file must contain exactly the declared arrays, uncompressed, each with its dtype and shape. So no header can
    make it need more memory than its own size, and no pickle is read. Raises ValueError that names the array.
    """
    _require_small_directory(content, len(declared))
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = archive.infolist()
        _require_declared(members, declared, size=len(content))
        return {
            (name := member.filename.removesuffix(".npy")): _load_member(archive, member, declared[name])
            for member in members
        }
    except ValueError:
        raise
    except Exception as error:  # zipfile raises errors of many classes for a damaged file
        raise ValueError(str(error) or type(error).__name__) from error


def _require_declared(members: Sequence[zipfile.ZipInfo], declared: Mapping[str, ArrayType], *, size: int) -> None:
    """Raise ValueError unless the members of an archive of `size` bytes are the declared arrays, stored as they are."""
    names = sorted(member.filename for member in members)
    if names != sorted(f"{name}.npy" for name in declared):
        raise ValueError(f"it contains {', '.join(names)[:200]} instead of {', '.join(sorted(declared))[:200]}")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members overlap")
    for member in members:
        is_plain = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        if not is_plain or member.flag_bits & _ENCRYPTED:
            raise ValueError(f"{member.filename} is compressed or encrypted")


def _require_small_directory(content: bytes, members: int) -> None:
    """Raise ValueError if the directory of a zip archive is larger than one with this many members."""
    end = content[-_END_OF_ZIP.size :]
    if len(end) < _END_OF_ZIP.size or not end.startswith(b"PK\5\6"):
        raise ValueError("it is not an .npz file")
    if content[-_END_OF_ZIP.size - _LOCATOR_BYTES :].startswith(b"PK\6\7"):  # zipfile would believe this directory
        raise ValueError("it has a directory for archives of more than 2 GiB")
    size = _END_OF_ZIP.unpack(end)[5]
    if size > members * _MAX_ENTRY_BYTES:
        raise ValueError(f"its directory of {size:,} bytes is too large for {members} arrays")


def _load_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, expected: ArrayType) -> npt.NDArray[Any]:
    name = member.filename
    data = bytearray(archive.read(member))
    file = io.BytesIO(data)
    try:
        shape, is_fortran, dtype = _read_header(file)
    except Exception as error:  # numpy parses the header as Python text, with all the errors that this has
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{name} has no valid header: {first_line[:200]}") from error
    fits = len(shape) == len(expected.shape) and all(
        size >= 0 and wanted in {None, size} for size, wanted in zip(shape, expected.shape, strict=True)
    )
    if dtype != expected.dtype or not fits:
        wanted_text = ", ".join("?" if size is None else str(size) for size in expected.shape)
        raise ValueError(f"{name} is {str(dtype)[:40]} {str(shape)[:80]} instead of {expected.dtype} ({wanted_text})")
    start = file.tell()
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"{name} has {len(data) - start:,} bytes, which do not fit its shape {shape}")
    flat = np.frombuffer(data, dtype=dtype, offset=start)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _read_header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"unknown version {version}")

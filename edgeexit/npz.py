"""Writes `.npz` files whose bytes depend only on the arrays."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.files import write_atomic


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

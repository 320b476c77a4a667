"""Golden samples: a few inputs with the logits that the compiled stages produced on the build machine."""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.layout import GOLDEN
from edgeexit.errors import BundleError
from edgeexit.npz import save_arrays

_INPUT_PREFIX: Final = "input."
_EXIT_PREFIX: Final = "exit."


class GoldenSamples(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs and expected logits of `n` samples; a device compares its own logits with them."""

    inputs: dict[str, npt.NDArray[Any]]
    """Model input name -> array `[n, ...]`."""
    exits: dict[str, npt.NDArray[np.float32]]
    """Exit name -> logits `[n, C]`, or `[n, C, H, W]` for segmentation."""


def write_golden(folder: Path, golden: GoldenSamples) -> None:
    """Write `golden.npz` into a bundle folder that is being built."""
    arrays = {f"{_INPUT_PREFIX}{name}": array for name, array in golden.inputs.items()}
    arrays |= {f"{_EXIT_PREFIX}{name}": array for name, array in golden.exits.items()}
    save_arrays(folder / GOLDEN, arrays)


def read_golden(folder: Path) -> GoldenSamples:
    """Read `golden.npz` of a bundle folder. Raises BundleError if the file is damaged."""
    try:
        with np.load(folder / GOLDEN, allow_pickle=False) as arrays:
            return GoldenSamples(inputs=_with_prefix(arrays, _INPUT_PREFIX), exits=_with_prefix(arrays, _EXIT_PREFIX))
    except Exception as error:  # numpy, zipfile and zlib raise different classes for a damaged file
        raise BundleError(f"bundle '{folder}': {GOLDEN} is damaged: {error}; copy the bundle again") from error


def _with_prefix(arrays: Any, prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name[len(prefix) :]: arrays[name] for name in arrays.files if name.startswith(prefix)}

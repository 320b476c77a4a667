"""Golden samples: a few inputs with the logits that the compiled stages produced on the build machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.layout import GOLDEN
from edgeexit.bundle.manifest import Manifest
from edgeexit.npz import ArrayType, load_declared, save_arrays

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


def decode_golden(content: bytes, manifest: Manifest) -> GoldenSamples:
    """Return the golden samples in the bytes of `golden.npz`.

    Raises ValueError unless it contains the inputs and exits of the manifest and nothing else, each with the declared
    dtype and shape, for the same number of samples.
    """
    declared = {f"{_INPUT_PREFIX}{spec.name}": spec for spec in manifest.inputs}
    declared |= {f"{_EXIT_PREFIX}{stage.exit.name}": stage.exit for stage in manifest.stages}
    arrays = load_declared(
        content,
        {
            name: ArrayType(np.dtype(spec.dtype), tuple(size if isinstance(size, int) else None for size in spec.shape))
            for name, spec in declared.items()
        },
    )
    if len(counts := {len(array) for array in arrays.values()}) != 1 or 0 in counts:
        raise ValueError(f"its arrays have {', '.join(map(str, sorted(counts)))} samples; every array needs the same")
    return GoldenSamples(inputs=_with_prefix(arrays, _INPUT_PREFIX), exits=_with_prefix(arrays, _EXIT_PREFIX))


def _with_prefix(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}

"""Checks the arrays of samples against the inputs of a model; errors name the array that does not match, and how."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.datasets.unread import closest_array
from edgeexit.errors import DataError

Inputs = Mapping[str, npt.NDArray[Any]]
"""Model input name -> array [B, ...]."""


def check_inputs(arrays: Inputs, specs: Sequence[TensorSpec], *, where: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that `specs` name. Raises DataError, which names the array that does not match, and how."""
    inputs: dict[str, npt.NDArray[Any]] = {}
    count: int | None = None
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            raise DataError(_missing(arrays, spec, specs, where))
        if not isinstance(array, np.ndarray):
            raise DataError(f"{where}: '{spec.name}' is a {type(array).__name__}; it must be a numpy array")
        if not _matches(array.shape, spec.shape):
            expected = "x".join(map(str, spec.shape))
            found = f"has shape {'x'.join(map(str, array.shape))}" if array.shape else "is a scalar"
            raise DataError(f"{where}: '{spec.name}' {found}, but the model takes {expected}")
        if array.dtype != np.dtype(spec.dtype):
            raise DataError(f"{where}: '{spec.name}' is {array.dtype}, but the model takes {spec.dtype}; convert it")
        if count is not None and len(array) != count:
            raise DataError(
                f"{where}: '{spec.name}' has {len(array)} samples, but '{specs[0].name}' has {count}; "
                "give both the same number"
            )
        count = len(array)
        inputs[spec.name] = array
    if not count:
        raise DataError(f"{where}: there are no samples; give at least 1")
    return inputs


def check_finite(inputs: Inputs, *, where: str, masks: Sequence[str] = ()) -> None:
    """Raise DataError, which names the first such sample, if a floating-point array contains NaN or infinity.

    The inputs `masks` are attention masks: they may contain minus infinity.
    """
    for name, array in inputs.items():
        if array.dtype.kind != "f":
            continue
        is_good = np.isfinite(array)
        if is_good.all():
            continue
        is_good |= np.isneginf(array)
        is_mask = bool(is_good.all())  # nothing but minus infinity is wrong
        if is_mask and name in masks:
            continue
        good = is_good if name in masks else np.isfinite(array)
        bad = ~good.reshape(len(array), -1).all(axis=1)
        first = int(bad.argmax())
        what = "NaN" if np.isnan(array[first]).any() else "minus infinity" if is_mask else "infinity"
        advice = f"remove them, or compile the model with --mask {name} if it is an attention mask"
        raise DataError(
            f"{where}: '{name}' has {what} in sample {first}; {int(bad.sum())} of {len(array)} samples are not finite; "
            f"{advice if is_mask else 'remove them'}"
        )


def _missing(arrays: Inputs, spec: TensorSpec, specs: Sequence[TensorSpec], where: str) -> str:
    """Return the error for an input without an array, with the array that probably is meant."""
    names = [one.name for one in specs]
    unread = {name: array for name, array in arrays.items() if name not in names}
    meant = closest_array(spec, unread)
    found = ", ".join(f"'{name}'" for name in arrays) or "none"
    advice = "" if meant is None else f"; rename '{meant}' to '{spec.name}'"
    return f"{where}: the array '{spec.name}' is missing; the arrays are {found}{advice}"


def _matches(found: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Return True if a shape matches; the batch and symbolic dimensions may have any size."""
    if len(found) != len(expected):
        return False
    if found[1:] == expected[1:]:  # the usual case, checked first because every inference calls this
        return True
    return all(isinstance(size, str) or size == other for size, other in zip(expected[1:], found[1:], strict=True))

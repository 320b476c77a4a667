"""Data files: `.npz` with one array an input, under the input's name, and `labels`."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Task, TensorSpec
from edgeexit.errors import DataError

LABELS: Final = "labels"
IGNORED: Final = 255
"""Label of a pixel that does not count, as in the Cityscapes and Pascal VOC data sets."""

Inputs = Mapping[str, npt.NDArray[Any]]
"""Model input name -> array [B, ...]."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Samples, and their labels where they are known."""

    inputs: dict[str, npt.NDArray[Any]]
    """Model input name -> array [N, ...]."""
    labels: npt.NDArray[np.int64] | None = None
    """[N] class indices; to segment [N, H, W], `IGNORED` where a pixel does not count."""

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield the inputs in order, `size` samples at a time."""
        for start in range(0, len(self), size):
            yield {name: array[start : start + size] for name, array in self.inputs.items()}


def load_dataset(
    path: Path,
    specs: Sequence[TensorSpec],
    *,
    task: Task = "classification",
    classes: int | None = None,
    need_labels: bool = False,
) -> Dataset:
    """Read a data file and check it against a model's inputs.

    Raises DataError: unreadable, an input missing, a shape or dtype that does not fit, labels of the wrong form or
    outside `classes`, or no labels where `need_labels`.
    """
    where = f"data file '{path}'"
    dataset = as_dataset(load_arrays(path), specs, task=task, classes=classes, where=where)
    if need_labels and dataset.labels is None:
        raise DataError(f"{where} has no array '{LABELS}', and this needs the true classes")
    return dataset


def as_dataset(
    arrays: Inputs,
    specs: Sequence[TensorSpec],
    *,
    task: Task = "classification",
    classes: int | None = None,
    where: str,
) -> Dataset:
    """Return the arrays that `specs` name, and the labels that are there, checked. Raises DataError."""
    inputs = check_inputs(arrays, specs, where=where)
    labels = None if any(spec.name == LABELS for spec in specs) else arrays.get(LABELS)
    if labels is None:
        return Dataset(inputs=inputs)
    return Dataset(inputs=inputs, labels=_check_labels(labels, len(next(iter(inputs.values()))), task, classes, where))


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read every array of a data file. Raises DataError when it is unreadable."""
    try:
        with path.open("rb") as file:
            is_archive = zipfile.is_zipfile(file)
    except FileNotFoundError as error:
        raise DataError(f"data file '{path}' does not exist") from error
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read: {error.strerror}") from error
    if not is_archive:
        raise DataError(f"data file '{path}' is not an .npz; save it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib each have their own words for a broken file
        reason = str(error).partition(". If you trust")[0]  # numpy's advice to unpickle is none of ours
        raise DataError(f"data file '{path}' cannot be read as .npz: {reason}") from error
    if not any(isinstance(array, np.ndarray) for array in found.values()):
        raise DataError(f"data file '{path}' is a zip without an array in it; save it with numpy.savez")
    return found


def check_inputs(arrays: Inputs, specs: Sequence[TensorSpec], *, where: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that `specs` name, or raise DataError that says which one does not fit and how."""
    inputs: dict[str, npt.NDArray[Any]] = {}
    count: int | None = None
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            raise DataError(f"{where} has no array '{spec.name}'; it has {_names(arrays)}")
        if not isinstance(array, np.ndarray):
            raise DataError(f"{where}: '{spec.name}' is a {type(array).__name__} where a numpy array is needed")
        if not _fits(array.shape, spec.shape):
            wanted, found = "x".join(map(str, spec.shape)), "x".join(map(str, array.shape)) or "a scalar"
            raise DataError(f"{where}: '{spec.name}' is {found} where the model takes {wanted}")
        if array.dtype != np.dtype(spec.dtype):
            raise DataError(f"{where}: '{spec.name}' is {array.dtype} where the model takes {spec.dtype}; convert it")
        if count is not None and len(array) != count:
            raise DataError(f"{where}: '{spec.name}' has {len(array)} samples where '{specs[0].name}' has {count}")
        count = len(array)
        inputs[spec.name] = array
    if not count:
        raise DataError(f"{where} holds no samples")
    return inputs


def check_finite(inputs: Inputs, *, where: str) -> None:
    """Raise DataError, with the first bad sample, where an array of floats has NaN or infinity."""
    for name, array in inputs.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        first = int(bad.argmax())
        what = "NaN" if np.isnan(array[first]).any() else "infinity"
        raise DataError(
            f"{where}: '{name}' has {what} in sample {first}, and {int(bad.sum())} of {len(array)} samples are so; "
            "leave them out"
        )


def counts_of(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return where labels [N] or [N, H, W] count: everywhere, but for the pixels of a map that are `IGNORED`."""
    return labels != IGNORED if labels.ndim > 1 else np.ones(labels.shape, dtype=np.bool_)


def _check_labels(
    labels: npt.NDArray[Any], samples: int, task: Task, classes: int | None, where: str
) -> npt.NDArray[np.int64]:
    form = "[N, height, width]" if task == "segmentation" else "[N]"
    if labels.ndim != form.count(",") + 1 or len(labels) != samples:
        raise DataError(f"{where}: '{LABELS}' has shape {labels.shape} where {samples} samples need one each, {form}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where}: '{LABELS}' is {labels.dtype}; it must hold class indices (integers)")
    counted = labels[labels != IGNORED] if task == "segmentation" else labels
    if classes is not None and counted.size and (counted.min() < 0 or counted.max() >= classes):
        worst = int(counted.min()) if counted.min() < 0 else int(counted.max())
        raise DataError(f"{where}: label {worst} is outside the model's classes 0 to {classes - 1}")
    return labels.astype(np.int64)


def _fits(found: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """Tell whether a shape is the wanted one; the first dimension and those with a word may have any size."""
    if len(found) != len(wanted):
        return False
    if found[1:] == wanted[1:]:  # as a rule, and quick: every inference comes by here
        return True
    return all(isinstance(size, str) or size == there for size, there in zip(wanted[1:], found[1:], strict=True))


def _names(arrays: Inputs) -> str:
    return ", ".join(f"'{name}'" for name in arrays) or "none"

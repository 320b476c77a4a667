"""Data files: `.npz` with one array per model input, under the name of the input, and optionally `labels`."""

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
IGNORED: Final = -100
"""Label of a pixel or token that does not count, the default `ignore_index` of torch's cross entropy."""
_IGNORED_PIXEL: Final = 255
"""In a data file for segmentation, pixels with this label do not count either, as in Cityscapes and Pascal VOC, unless
the model has a class 255."""
_LABEL_SHAPES: Final[Mapping[Task, str]] = {
    "classification": "[N]",
    "segmentation": "[N, height, width]",
    "tagging": "[N, tokens]",
}

Inputs = Mapping[str, npt.NDArray[Any]]
"""Model input name -> array [B, ...]."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Samples, with their labels if these are known."""

    inputs: dict[str, npt.NDArray[Any]]
    """Model input name -> array [N, ...]."""
    labels: npt.NDArray[np.int64] | None = None
    """[N] class indices; [N, H, W] for segmentation, [N, 1, T] for tagging, with `IGNORED` where they do not count."""

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield the inputs in order, in batches of `size` samples; the last batch may be smaller."""
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
    """Read a data file and check it against the inputs of a model.

    Raises DataError if the file is unreadable, an input is missing, a shape or dtype does not match, the labels have
    the wrong shape or dtype or are outside `classes`, or there are no labels and `need_labels` is True.
    """
    where = f"data file '{path}'"
    dataset = as_dataset(load_arrays(path), specs, task=task, classes=classes, where=where)
    if need_labels and dataset.labels is None:
        raise DataError(f"{where} has no array '{LABELS}'; add the true class of each sample")
    return dataset


def as_dataset(
    arrays: Inputs,
    specs: Sequence[TensorSpec],
    *,
    task: Task = "classification",
    classes: int | None = None,
    where: str,
) -> Dataset:
    """Return the arrays that `specs` name, and any labels, as a data set. Raises DataError as `load_dataset` does."""
    inputs = check_inputs(arrays, specs, where=where)
    labels = None if any(spec.name == LABELS for spec in specs) else arrays.get(LABELS)
    if labels is None:
        return Dataset(inputs=inputs)
    return Dataset(inputs=inputs, labels=_check_labels(labels, len(next(iter(inputs.values()))), task, classes, where))


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read every array of a data file. Raises DataError if the file is unreadable."""
    try:
        with path.open("rb") as file:
            is_archive = zipfile.is_zipfile(file)
    except FileNotFoundError as error:
        raise DataError(f"data file '{path}' does not exist") from error
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read: {error.strerror}") from error
    if not is_archive:
        raise DataError(f"data file '{path}' is not an .npz, or is damaged; save it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib raise errors of many classes for a broken file
        reason = str(error).partition(". If you trust")[0]  # drop numpy's advice to load pickled data
        raise DataError(f"data file '{path}' cannot be read as .npz: {reason}") from error
    if not any(isinstance(array, np.ndarray) for array in found.values()):
        raise DataError(f"data file '{path}' is a zip file without arrays; save it with numpy.savez")
    return found


def check_inputs(arrays: Inputs, specs: Sequence[TensorSpec], *, where: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that `specs` name. Raises DataError, which names the array that does not match, and how."""
    inputs: dict[str, npt.NDArray[Any]] = {}
    count: int | None = None
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            raise DataError(f"{where} has no array '{spec.name}'; it has {_names(arrays)}")
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
        raise DataError(f"{where} has no samples; give at least 1")
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


def counted_mask(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return a mask of the labels [N] or [N, H, W] that count: all, except those in maps that are `IGNORED`."""
    return labels != IGNORED if labels.ndim > 1 else np.ones(labels.shape, dtype=np.bool_)


def _check_labels(
    labels: npt.NDArray[Any], samples: int, task: Task, classes: int | None, where: str
) -> npt.NDArray[np.int64]:
    """Return labels as class indices: [N], or maps [N, H, W] ([N, 1, T] for tagging) with `IGNORED`.

    A dimension of size 1 is removed if there is one too many. Raises DataError for all other shapes and types.
    """
    shape = _LABEL_SHAPES[task]
    rank = shape.count(",") + 1
    if labels.ndim == rank + 1 and 1 in (labels.shape[1], labels.shape[-1]):
        labels = labels.squeeze(1 if labels.shape[1] == 1 else -1)
    if labels.ndim != rank or len(labels) != samples:
        advice = _one_hot_advice(labels, rank, classes)
        raise DataError(
            f"{where}: '{LABELS}' has shape {labels.shape}; {samples} samples need labels of shape {shape}{advice}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        is_whole = labels.dtype.kind == "b" or (labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all()))
        advice = f"; convert them with {LABELS}.astype(numpy.int64)" if is_whole else ""
        raise DataError(f"{where}: '{LABELS}' is {labels.dtype}; it must hold class indices (integers){advice}")
    found = labels.astype(np.int64)
    if task == "segmentation" and (classes is None or classes <= _IGNORED_PIXEL):
        found[found == _IGNORED_PIXEL] = IGNORED
    counted = found if task == "classification" else found[found != IGNORED]
    if classes is not None and counted.size and (counted.min() < 0 or counted.max() >= classes):
        worst = int(counted.min()) if counted.min() < 0 else int(counted.max())
        raise DataError(f"{where}: label {worst} is outside the model's classes, 0 to {classes - 1}")
    return found[:, None] if task == "tagging" else found


def _one_hot_advice(labels: npt.NDArray[Any], rank: int, classes: int | None) -> str:
    """Return how to convert labels that have a score for each class instead of the index of the class."""
    if labels.ndim != rank + 1:
        return ""
    axes = [axis for axis in (1, labels.ndim - 1) if classes is not None and labels.shape[axis] == classes]
    return f"; if they are one-hot, convert them with {LABELS}.argmax({axes[0]})" if axes else ""


def _matches(found: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Return True if a shape matches; the batch and symbolic dimensions may have any size."""
    if len(found) != len(expected):
        return False
    if found[1:] == expected[1:]:  # the usual case, checked first because every inference calls this
        return True
    return all(isinstance(size, str) or size == other for size, other in zip(expected[1:], found[1:], strict=True))


def _names(arrays: Inputs) -> str:
    return ", ".join(f"'{name}'" for name in arrays) or "none"

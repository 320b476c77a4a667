"""Data files: `.npz` with one array per model input, under the name of the input, and optionally `labels`."""

import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Task, TensorSpec
from edgeexit.datasets.inputs import Inputs, check_inputs
from edgeexit.datasets.labels import LABELS, IgnoredLabels, check_labels, label_rank
from edgeexit.datasets.unread import unread_warning
from edgeexit.errors import DataError
from edgeexit.files import is_git_lfs_pointer

_NOT_PICKLED = "Object arrays cannot be loaded"
"""Start of numpy's error for an array of Python objects."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Samples, with their labels if these are known."""

    inputs: dict[str, npt.NDArray[Any]]
    """Model input name -> array [N, ...]."""
    labels: npt.NDArray[np.int64] | None = None
    """[N] class indices; [N, H, W] for segmentation, [N, 1, T] for tagging, with `IGNORED` where they do not count."""
    ignored: IgnoredLabels | None = None
    """How many labels of the data file are ignored; None if none is. In classification, `inputs` and `labels` are
    without the samples that have an ignored label."""
    warnings: tuple[str, ...] = ()
    """One line each: arrays that are not read, and ignored labels that are classes of the model or have no effect."""

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
    read_labels: bool = True,
    ignore_labels: Collection[int] | None = None,
) -> Dataset:
    """Read a data file and check it against the inputs of a model.

    Args:
        path: the `.npz` file.
        specs: the inputs of the model.
        task: decides the shape of the labels.
        classes: number of classes of the model; None: labels may have any value.
        need_labels: require labels.
        read_labels: False leaves the labels out, and does not check them.
        ignore_labels: labels that do not count. Default: in segmentation 255, if the model has at most 255 classes;
            otherwise none. In segmentation and tagging, -100 never counts.

    Raises DataError if the file is unreadable, an input is missing, a shape or dtype does not match, the labels have
    the wrong shape or dtype or are neither ignored nor in `classes`, all labels are ignored, or there are no labels and
    `need_labels` is True.

    """
    where = f"data file '{path}'"
    dataset = as_dataset(
        load_arrays(path),
        specs,
        task=task,
        classes=classes,
        read_labels=read_labels,
        ignore_labels=ignore_labels,
        where=where,
    )
    if need_labels and dataset.labels is None:
        raise DataError(f"{where} has no array '{LABELS}'; add the true class of each sample")
    return dataset


def as_dataset(
    arrays: Inputs,
    specs: Sequence[TensorSpec],
    *,
    task: Task = "classification",
    classes: int | None = None,
    read_labels: bool = True,
    ignore_labels: Collection[int] | None = None,
    where: str,
) -> Dataset:
    """Return the arrays that `specs` name, and any labels, as a data set. Raises DataError as `load_dataset` does."""
    inputs = check_inputs(arrays, specs, where=where)
    samples = len(next(iter(inputs.values())))
    has_labels = LABELS in arrays and LABELS not in inputs
    unread = unread_warning(
        {name: array for name, array in arrays.items() if name not in inputs and name != LABELS},
        where=where,
        label_name=LABELS if read_labels and LABELS not in arrays else None,
        rank=label_rank(task),
        samples=samples,
        inputs=list(inputs),
    )
    warnings: tuple[str, ...] = () if unread is None else (unread,)
    if read_labels and not has_labels and ignore_labels:
        named = ", ".join(map(str, ignore_labels))
        warnings += (f"{where} has no array '{LABELS}', so --ignore-label {named} has no effect",)
    if not (has_labels and read_labels):
        return Dataset(inputs=inputs, warnings=warnings)
    checked = check_labels(
        arrays[LABELS], samples=samples, task=task, classes=classes, ignore_labels=ignore_labels, where=where
    )
    labels, warnings = checked.labels, warnings + checked.warnings
    if task == "classification" and checked.ignored is not None:
        counted = ~checked.is_ignored
        inputs, labels = {name: array[counted] for name, array in inputs.items()}, labels[counted]
    return Dataset(inputs=inputs, labels=labels, ignored=checked.ignored, warnings=warnings)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read every array of a data file. Raises DataError if the file is unreadable."""
    try:
        with path.open("rb") as file:
            is_archive = zipfile.is_zipfile(file)
    except FileNotFoundError as error:
        raise DataError(f"data file '{path}' does not exist") from error
    except OSError as error:
        raise DataError(f"data file '{path}' cannot be read: {error.strerror}") from error
    if not is_archive and is_git_lfs_pointer(path):
        raise DataError(f"data file '{path}' is a Git LFS pointer; run `git lfs pull`")
    if not is_archive:
        raise DataError(f"data file '{path}' is not an .npz, or is damaged; save it with numpy.savez")
    name = ""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {}
            for name in arrays.files:
                found[name] = arrays[name]
    except Exception as error:  # numpy, zipfile and zlib raise errors of many classes for a broken file
        if str(error).startswith(_NOT_PICKLED):
            raise DataError(
                f"data file '{path}': '{name}' holds Python objects, which are not loaded because they can run code; "
                "save it as numbers or strings, or leave it out"
            ) from error
        array = f"'{name}' " if name else ""
        raise DataError(
            f"data file '{path}': {array}cannot be read as .npz: {error or type(error).__name__}"
        ) from error
    if not any(isinstance(array, np.ndarray) for array in found.values()):
        raise DataError(f"data file '{path}' is a zip file without arrays; save it with numpy.savez")
    return found

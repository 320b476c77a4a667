"""True classes of samples, pixels and tokens: their form, and those that are declared as ignored."""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Task
from edgeexit.errors import DataError

LABELS: Final = "labels"
IGNORED: Final = -100
"""Label of a pixel or token that does not count, the default `ignore_index` of torch's cross entropy."""
_IGNORED_PIXEL: Final = 255
"""In a data file for segmentation, pixels with this label do not count either by default, as in Cityscapes and Pascal
VOC, unless the model has a class 255."""
_MAX_NAMED: Final = 3
_MAX_LABEL: Final = np.iinfo(np.int64).max
_LABEL_SHAPES: Final[Mapping[Task, str]] = {
    "classification": "[N]",
    "segmentation": "[N, height, width]",
    "tagging": "[N, tokens]",
}
_UNITS: Final[Mapping[Task, str]] = {"classification": "samples", "segmentation": "pixels", "tagging": "tokens"}


class IgnoredLabels(msgspec.Struct, frozen=True, kw_only=True):
    """How many labels of a data set are ignored."""

    counts: dict[int, int]
    """Ignored label -> number of samples, pixels or tokens that have it, without labels that do not occur."""
    total: int
    """Number of all labels."""
    unit: str
    """`samples`, `pixels` or `tokens`."""

    def __str__(self) -> str:
        """Return one line with the number and percentage of the ignored labels."""
        ignored = sum(self.counts.values())
        names = ", ".join(str(label) for label in sorted(self.counts))
        what = "label" if len(self.counts) == 1 else "labels"
        effect = "are left out" if self.unit == "samples" else "do not count in the accuracy"
        return (
            f"ignored {what} {names}: {ignored:,} of {self.total:,} {self.unit} "
            f"({100 * ignored / self.total:.3g} %) {effect}"
        )


class CheckedLabels(NamedTuple):
    """The labels of a data set as class indices."""

    labels: npt.NDArray[np.int64]
    """[N], [N, H, W] or [N, 1, T], with `IGNORED` where they do not count."""
    is_ignored: npt.NDArray[np.bool_]
    """[N], [N, H, W] or [N, T]."""
    ignored: IgnoredLabels | None
    """None if no label is ignored."""
    warnings: tuple[str, ...]


def check_labels(
    labels: npt.NDArray[Any],
    *,
    samples: int,
    task: Task,
    classes: int | None,
    ignore_labels: Collection[int] | None,
    where: str,
) -> CheckedLabels:
    """Return labels as class indices: [N], or maps [N, H, W] ([N, 1, T] for tagging), with `IGNORED`.

    A dimension of size 1 is removed if there is one too many. Raises DataError for all other shapes and types, for
    labels that are neither ignored nor one of the `classes`, and if all labels are ignored.

    Args:
        labels: the array in the data.
        samples: number of samples.
        task: decides the shape, and whether `IGNORED` needs no declaration: in maps it needs none.
        classes: number of classes of the model; None: labels may have any value.
        ignore_labels: labels that do not count. Default: in segmentation 255, if the model has at most 255 classes.
        where: name of the data in error messages.

    """
    found = _class_indices(labels, samples, task, classes, where)
    unit = _UNITS[task]
    declared = _default(task, classes) if ignore_labels is None else frozenset(ignore_labels)
    if task != "classification":
        declared |= {IGNORED}
    counts = {label: number for label in sorted(declared) if (number := int(np.count_nonzero(found == label)))}
    is_ignored = np.isin(found, list(counts)) if counts else np.zeros(found.shape, dtype=np.bool_)
    if counts and is_ignored.all():
        names = ", ".join(map(str, counts))
        raise DataError(
            f"{where}: every label is ignored ({names}); correct the labels, or declare others with --ignore-label"
        )
    if classes is not None:
        _require_classes(found[~is_ignored], classes, unit, where)
    found[is_ignored] = IGNORED
    warnings = tuple(
        f"{where}: label {label} is ignored as declared, but it is also a class of the model; {number:,} {unit} have "
        f"it. Remove --ignore-label {label} if they count"
        for label, number in counts.items()
        if classes is not None and 0 <= label < classes
    )
    return CheckedLabels(
        found[:, None] if task == "tagging" else found,
        is_ignored,
        IgnoredLabels(counts=counts, total=found.size, unit=unit) if counts else None,
        warnings,
    )


def counted_mask(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return a mask of the labels [N] or [N, H, W] that count: all, except those in maps that are `IGNORED`."""
    return labels != IGNORED if labels.ndim > 1 else np.ones(labels.shape, dtype=np.bool_)


def label_rank(task: Task) -> int:
    """Return the number of dimensions of the labels in a data file."""
    return _LABEL_SHAPES[task].count(",") + 1


def _default(task: Task, classes: int | None) -> frozenset[int]:
    is_free = classes is None or classes <= _IGNORED_PIXEL
    return frozenset({_IGNORED_PIXEL}) if task == "segmentation" and is_free else frozenset()


def _class_indices(
    labels: npt.NDArray[Any], samples: int, task: Task, classes: int | None, where: str
) -> npt.NDArray[np.int64]:
    """Return a copy of the labels as int64, [N], [N, H, W] or [N, T]."""
    if not isinstance(labels, np.ndarray):
        raise DataError(f"{where}: '{LABELS}' is a {type(labels).__name__}; it must be a numpy array")
    shape, rank = _LABEL_SHAPES[task], label_rank(task)
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
    if labels.dtype.kind == "u" and labels.max(initial=0) > _MAX_LABEL:
        raise DataError(f"{where}: label {labels.max()} is no class index; correct it")
    return labels.astype(np.int64)


def _require_classes(counted: npt.NDArray[np.int64], classes: int, unit: str, where: str) -> None:
    """Raise DataError, which names the most frequent labels that are neither a class nor ignored."""
    outside = counted[(counted < 0) | (counted >= classes)]
    if not outside.size:
        return
    values, numbers = np.unique(outside, return_counts=True)
    worst = values[np.argsort(-numbers, kind="stable")][:_MAX_NAMED].tolist()
    more = f" and {len(values) - _MAX_NAMED} more" if len(values) > _MAX_NAMED else ""
    named = ", ".join(map(str, worst))
    what, are = ("label", "is") if len(values) == 1 else ("labels", "are")
    raise DataError(
        f"{where}: {what} {named}{more} {are} outside the model's classes, 0 to {classes - 1}, in {outside.size:,} of "
        f"{counted.size:,} {unit}; if they do not count, add --ignore-label {worst[0]}"
    )


def _one_hot_advice(labels: npt.NDArray[Any], rank: int, classes: int | None) -> str:
    """Return how to convert labels that have a score for each class instead of the index of the class."""
    if labels.ndim != rank + 1:
        return ""
    axes = [axis for axis in (1, labels.ndim - 1) if classes is not None and labels.shape[axis] == classes]
    return f"; if they are one-hot, convert them with {LABELS}.argmax({axes[0]})" if axes else ""

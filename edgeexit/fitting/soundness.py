"""Checks a readout dataset before a policy is fitted to it."""

import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.readout_dataset import MapLosses, ReadoutDataset
from edgeexit.policies.readout import COLUMNS


def require_sound(dataset: ReadoutDataset) -> None:
    """Raise FittingError for a dataset to which no policy can be fitted.

    Such a dataset has wrong shapes, no samples, readouts that are not finite, costs that do not increase, labels
    outside the classes or all of one class, or losses of a segmentation outside [0, 1].
    """
    readouts, exits = dataset.readouts, len(dataset.costs)
    _require_shapes(dataset, exits)
    if len(dataset.temperatures) != exits:
        raise FittingError(f"{len(dataset.temperatures)} temperatures are given for {exits} exits; give one per exit")
    if not len(dataset):
        raise FittingError("the readout dataset has no samples; give at least 1")
    bad = ~np.isfinite(readouts).all(axis=2)
    if bad.any():
        sample, index = (int(each) for each in np.argwhere(bad)[0])
        raise FittingError(
            f"the readouts of exit {index} are not all finite, first in sample {sample}; check whether the model "
            "outputs NaN (the softmax of a row that minus infinity masks entirely is NaN)"
        )
    costs = np.asarray(dataset.costs)
    if not np.isfinite(costs).all() or costs[0] <= 0 or not (np.diff(costs) > 0).all():
        raise FittingError(f"costs {list(dataset.costs)} must be increasing numbers above 0, one per exit")
    if dataset.labels is not None:
        _require_labels(dataset.labels, len(dataset), dataset.classes)
    if dataset.maps is not None:
        _require_maps(dataset.maps, readouts.shape[:2])


def _require_shapes(dataset: ReadoutDataset, exits: int) -> None:
    readouts = dataset.readouts
    if readouts.ndim != 3 or readouts.shape[1:] != (exits, len(COLUMNS)):  # noqa: PLR2004 - [N, K, 4]
        raise FittingError(f"readouts have shape {readouts.shape} where [N, {exits}, 4] is needed")
    if dataset.logits is not None:
        recorded = dataset.logits.array.shape
        samples = len(dataset) if dataset.rows is None else recorded[0]
        if len(recorded) != 3 or recorded[:2] != (samples, exits):  # noqa: PLR2004 - [N, K, C]
            raise FittingError(f"logits have shape {recorded} where [{samples}, {exits}, C] is needed")
    if exits < 2:  # noqa: PLR2004 - an early exit and a final one
        raise FittingError(f"readouts have {exits} exits; a policy needs at least 2 exits")


def _require_labels(labels: npt.NDArray[np.int64], samples: int, classes: int | None) -> None:
    if not (isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer)):
        raise FittingError("labels must be a numpy array of class indices (integers)")
    if labels.shape != (samples,):
        raise FittingError(f"labels have shape {labels.shape} where {samples} samples need shape ({samples},)")
    outside = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
    if outside.any():
        known = ", which start at 0" if classes is None else f" 0 to {classes - 1}"
        raise FittingError(f"label {int(labels[outside][0])} is outside the classes{known}")
    if samples > 1 and (labels == labels[0]).all():
        raise FittingError(
            f"all {samples} labels are class {int(labels[0])}; give samples of all classes: a policy fitted on one "
            "class fails on the others"
        )


def _require_maps(maps: MapLosses, shape: tuple[int, ...]) -> None:
    for name, fractions in (("disagreement", maps.disagreement), ("errors", maps.errors)):
        if fractions is None:
            continue
        if fractions.shape != shape:
            raise FittingError(f"maps.{name} has shape {fractions.shape} where {shape} is needed")
        if not ((fractions >= 0) & (fractions <= 1)).all():
            raise FittingError(f"maps.{name} must be fractions of pixels between 0 and 1")

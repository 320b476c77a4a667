"""The readout dataset that policies are fitted on: readouts of the compiled stages, stage costs, and labels."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.policies.readout import COLUMNS, ENTROPY, P1, P2, TOP1, Array

Labels = npt.NDArray[np.int64] | None
Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_COLUMNS = len(COLUMNS)


class MapLosses(msgspec.Struct, frozen=True, kw_only=True):
    """Segmentation: the losses of the predicted maps of each exit, as fractions of the pixels of a sample."""

    disagreement: Array
    """[N, K] fraction of the pixels whose class differs from the final exit's."""
    errors: Array | None = None
    """[N, K] fraction of the labelled pixels whose class is wrong; None without labels."""


class ReadoutDataset(msgspec.Struct, frozen=True, kw_only=True):
    """The readouts of N samples at all K exits, with costs and labels. A policy reads the readouts only."""

    readouts: Array
    """[N, K, 4] float32, or [N, K, 4 + C] with the probabilities, under `temperatures`."""
    costs: tuple[float, ...]
    """[K] cumulative cost of each exit, increasing, in ms or in multiply-accumulates."""
    temperatures: tuple[float, ...]
    """[K] softmax temperatures of the readouts."""
    labels: Labels = None
    """[N] int64 true classes; None: the predictions of the final exit replace them. Always None for segmentation."""
    maps: MapLosses | None = None
    """Losses of a segmentation; None for a classification."""

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.readouts)

    @property
    def exits(self) -> int:
        """Number of exits K."""
        return int(self.readouts.shape[1])

    @property
    def classes(self) -> int | None:
        """Number of classes C, or None if the readouts hold no probabilities."""
        return int(self.readouts.shape[2]) - _COLUMNS or None

    @property
    def has_labels(self) -> bool:
        """True if labels are known. Losses are errors then, and otherwise disagreement with the final exit."""
        return self.labels is not None if self.maps is None else self.maps.errors is not None

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """[N] the labels, or the predictions of the final exit if there are none."""
        return self.readouts[:, -1, TOP1].astype(np.int64) if self.labels is None else self.labels

    @property
    def exit_predictions(self) -> npt.NDArray[np.int64]:
        """[N, K] the class that each exit itself predicts; ensembles can predict another."""
        return self.readouts[:, :, TOP1].astype(np.int64)

    @property
    def probabilities(self) -> Array:
        """[N, K, C] probabilities of all classes. Raises FittingError if the readouts hold none."""
        if self.classes is None:
            raise FittingError(
                "the probabilities of all classes are needed, and the readouts hold none; record them with "
                "`probabilities=True`"
            )
        return self.readouts[:, :, _COLUMNS:]

    def losses(self, predictions: npt.NDArray[np.int64]) -> Values:
        """Return the losses [N, K] in [0, 1] of `predictions` [N, K] at each exit against the truth.

        For segmentation they are the recorded fractions of pixels, and `predictions` is not used.
        """
        if self.maps is None:
            return np.asarray(predictions != self.truth[:, None], dtype=np.float64)
        return np.asarray(self.maps.disagreement if self.maps.errors is None else self.maps.errors, dtype=np.float64)

    def disagreement(self, predictions: npt.NDArray[np.int64]) -> Values:
        """Return the disagreement [N, K] in [0, 1] of `predictions` [N, K] at each exit with the final exit."""
        if self.maps is None:
            return np.asarray(predictions != self.readouts[:, -1:, TOP1], dtype=np.float64)
        return np.asarray(self.maps.disagreement, dtype=np.float64)

    def take(self, chosen: Indices) -> "ReadoutDataset":
        """Return the samples with these indices."""
        maps = self.maps
        if maps is not None:
            errors = None if maps.errors is None else maps.errors[chosen]
            maps = MapLosses(disagreement=maps.disagreement[chosen], errors=errors)
        labels = None if self.labels is None else self.labels[chosen]
        return msgspec.structs.replace(self, readouts=self.readouts[chosen], labels=labels, maps=maps)

    def without_labels(self) -> "ReadoutDataset":
        """Return the same samples without labels: losses are disagreement with the final exit."""
        maps = None if self.maps is None else MapLosses(disagreement=self.maps.disagreement)
        return msgspec.structs.replace(self, labels=None, maps=maps)

    def at(self, temperatures: Sequence[float]) -> "ReadoutDataset":
        """Return the same samples with readouts under other temperatures [K].

        softmax(logits / T) is computed from the probabilities under the current temperatures. Raises FittingError for
        readouts without probabilities, and for segmentation, where readouts are averages over pixels.
        """
        wanted = tuple(float(t) for t in temperatures)
        if wanted == self.temperatures:
            return self
        if self.maps is not None:
            raise FittingError(
                "averages over pixels cannot be converted to other temperatures; run the stages with these temperatures"
            )
        ratios = np.array(self.temperatures) / np.array(wanted)
        with np.errstate(divide="ignore"):  # a probability of 0 stays 0
            logs = np.log(self.probabilities, dtype=np.float64) * ratios[:, None]
        readouts = read_out(logs).astype(np.float32)
        same = ratios == 1
        readouts[:, same] = self.readouts[:, same]  # bit-identical to the stages
        return msgspec.structs.replace(self, readouts=readouts, temperatures=wanted)


def read_out(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the readouts [..., 4 + C] float64 of logits [..., C], as compiled stages compute them."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    exponents = np.exp(shifted)
    p = exponents / exponents.sum(axis=-1, keepdims=True)
    out = np.empty((*p.shape[:-1], _COLUMNS + p.shape[-1]))
    out[..., TOP1] = p.argmax(axis=-1)
    top = np.partition(p, -2, axis=-1)
    out[..., P1], out[..., P2] = top[..., -1], top[..., -2]
    out[..., ENTROPY] = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=-1)
    out[..., _COLUMNS:] = p
    return cast("npt.NDArray[np.float64]", out)


def require_sound(dataset: ReadoutDataset) -> None:
    """Raise FittingError for a dataset to which no policy can be fitted.

    Such a dataset has wrong shapes, no samples, readouts that are not finite, costs that do not increase, labels
    outside the classes or all of one class, or losses of a segmentation outside [0, 1].
    """
    readouts, exits = dataset.readouts, len(dataset.costs)
    if readouts.ndim != 3 or readouts.shape[1] != exits or readouts.shape[2] < _COLUMNS:  # noqa: PLR2004 - [N, K, 4 + C]
        raise FittingError(
            f"readouts have shape {readouts.shape} where [N, {exits}, 4] or [N, {exits}, 4 + C] is needed"
        )
    if exits < 2:  # noqa: PLR2004 - an early exit and a final one
        raise FittingError(f"readouts have {exits} exits; a policy needs at least 2 exits")
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

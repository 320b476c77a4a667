"""The readout dataset that policies are fitted on: readouts of the compiled stages, stage costs, and labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.exit_logits import BLOCK, ExitLogits, ReadExit
from edgeexit.policies.readout import COLUMNS, TOP1, Array

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
    probabilities: Array | None = None
    """[N, K, C] probabilities of the classes, averaged over the pixels, under the temperatures of the dataset; None
    where no policy reads them."""


class ReadoutDataset(msgspec.Struct, frozen=True, kw_only=True, eq=False, weakref=True):
    """The readouts of N samples at all K exits, with costs and labels.

    A classification also has the logits, from which readouts under any temperatures and the probabilities of all
    classes are computed; make such a dataset with `from_logits`. Without logits, only policies that read four columns
    can be fitted, under the temperatures of the dataset.
    """

    readouts: Array
    """[N, K, 4] float32, under `temperatures`."""
    costs: tuple[float, ...]
    """[K] cumulative cost of each exit, increasing, in ms or in multiply-accumulates."""
    temperatures: tuple[float, ...]
    """[K] softmax temperatures of the readouts."""
    labels: Labels = None
    """[N] int64 true classes; None: the predictions of the final exit replace them. Always None for segmentation."""
    maps: MapLosses | None = None
    """Losses of a segmentation; None for a classification."""
    logits: ExitLogits | None = None
    """The logits of all recorded samples; None if only readouts are known."""
    rows: Indices | None = None
    """[N] the row of each sample in `logits`; None: the samples are all rows, in order."""

    @staticmethod
    def from_logits(
        logits: npt.NDArray[Any],
        *,
        costs: Sequence[float],
        temperatures: Sequence[float] | None = None,
        labels: Labels = None,
        readouts: Array | None = None,
        read: ReadExit | None = None,
    ) -> "ReadoutDataset":
        """Return the dataset of a classification with logits [N, K, C].

        Args:
            logits: what the exits output.
            costs: [K] cumulative cost of each exit.
            temperatures: [K] softmax temperatures of the readouts; None: 1.
            labels: [N] int64 true classes, or None.
            readouts: [N, K, 4] what the stages computed under `temperatures`; None: they are computed.
            read: computes readouts as the stages do; None: numpy does.

        """
        recorded = ExitLogits(np.asarray(logits, dtype=np.float32), read)
        used = (1.0,) * len(costs) if temperatures is None else tuple(float(t) for t in temperatures)
        if readouts is None:
            readouts = _stacked(recorded, used)
        return ReadoutDataset(
            readouts=readouts,
            costs=tuple(float(cost) for cost in costs),
            temperatures=used,
            labels=labels,
            logits=recorded,
        )

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.readouts)

    @property
    def exits(self) -> int:
        """Number of exits K."""
        return int(self.readouts.shape[1])

    @property
    def classes(self) -> int | None:
        """Number of classes C, or None if neither logits nor probabilities are recorded."""
        if self.logits is not None:
            return self.logits.classes
        if self.maps is None or self.maps.probabilities is None:
            return None
        return int(self.maps.probabilities.shape[2])

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

    def exit_probabilities(self, exit_index: int) -> Array:
        """Return the probabilities [N, C] of all classes at one exit, under the temperatures of the dataset.

        Raises FittingError if neither logits nor probabilities are recorded.
        """
        found = np.empty((len(self), self.require_classes()), dtype=np.float32)
        for part, block in self.probability_blocks(exit_index):
            found[part] = block
        return found

    def probability_blocks(self, exit_index: int) -> Iterator[tuple[slice, Array]]:
        """Yield the same as `exit_probabilities` in blocks of samples: the place of a block, and its rows [n, C]."""
        self.require_classes()
        start = 0
        for block in self._probabilities(exit_index):
            yield slice(start, start + len(block)), block
            start += len(block)

    def readout_blocks(self) -> Iterator[Array]:
        """Yield the readouts [n, K, 4 + C] with the probabilities, in blocks of samples.

        Raises FittingError if neither logits nor probabilities are recorded.
        """
        classes = self.require_classes()
        if self.logits is not None:
            yield from self.logits.wide_readouts(self.temperatures, self.rows)
        elif self.maps is not None and self.maps.probabilities is not None:
            size = max(BLOCK // (self.exits * classes), 1)
            for start in range(0, len(self), size):
                part = slice(start, start + size)
                yield np.concatenate([self.readouts[part], self.maps.probabilities[part]], axis=2)

    def require_classes(self) -> int:
        """Return the number of classes C. Raises FittingError if neither logits nor probabilities are recorded."""
        if self.classes is None:
            raise FittingError(
                "the probabilities of all classes are needed, and the dataset has readouts only; record the logits, "
                "and make the dataset with `ReadoutDataset.from_logits`"
            )
        return self.classes

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
        """Return the samples with these indices. The logits are shared, not copied."""
        maps = self.maps
        if maps is not None:
            errors, probabilities = (
                None if each is None else each[chosen] for each in (maps.errors, maps.probabilities)
            )
            maps = MapLosses(disagreement=maps.disagreement[chosen], errors=errors, probabilities=probabilities)
        rows = self.rows
        if self.logits is not None:
            rows = np.asarray(chosen) if rows is None else rows[chosen]
        labels = None if self.labels is None else self.labels[chosen]
        return msgspec.structs.replace(self, readouts=self.readouts[chosen], labels=labels, maps=maps, rows=rows)

    def without_labels(self) -> "ReadoutDataset":
        """Return the same samples without labels: losses are disagreement with the final exit."""
        maps = None if self.maps is None else msgspec.structs.replace(self.maps, errors=None)
        return msgspec.structs.replace(self, labels=None, maps=maps)

    def at(self, temperatures: Sequence[float]) -> "ReadoutDataset":
        """Return the same samples with readouts under other temperatures [K], computed from the logits.

        Raises FittingError for a dataset without logits, and for segmentation, where readouts are averages over pixels.
        """
        wanted = tuple(float(t) for t in temperatures)
        if wanted == self.temperatures:
            return self
        if self.maps is not None:
            raise FittingError(
                "averages over pixels cannot be converted to other temperatures; run the stages with these temperatures"
            )
        if self.logits is None:
            raise FittingError(
                "readouts under other temperatures need the logits, and the dataset has readouts only; make it with "
                "`ReadoutDataset.from_logits`"
            )
        readouts = np.empty_like(self.readouts)
        for k, temperature in enumerate(wanted):
            if temperature == self.temperatures[k]:
                readouts[:, k] = self.readouts[:, k]
            else:
                found = self.logits.readouts(k, temperature)
                readouts[:, k] = found if self.rows is None else found[self.rows]
        return msgspec.structs.replace(self, readouts=readouts, temperatures=wanted)

    def _probabilities(self, exit_index: int) -> Iterator[Array]:
        if self.logits is not None:
            yield from self.logits.probabilities(exit_index, self.temperatures[exit_index], self.rows)
        elif self.maps is not None and self.maps.probabilities is not None:
            yield self.maps.probabilities[:, exit_index]


def _stacked(logits: ExitLogits, temperatures: tuple[float, ...]) -> Array:
    return np.stack([logits.readouts(k, temperature) for k, temperature in enumerate(temperatures)], axis=1)

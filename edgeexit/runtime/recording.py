"""Records the readouts of every exit on a data set: the input of a fit. For maps, also fractions of pixels."""

from collections.abc import Mapping
from math import prod
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.datasets import Dataset, counted_mask
from edgeexit.errors import DataError
from edgeexit.policies.readout import COLUMNS, Array
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.runtime.runner import Runner

_BATCH: Final = 64
_MAP_BYTES: Final = 2**25
"""Max bytes of the output maps of a batch, all exits together. The stages need memory in proportion to it."""

Predictions = npt.NDArray[np.int64]
"""Classes [B]; for maps, [B, H, W]."""


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """The readouts of every exit for every sample of a data set, with temperature 1."""

    readouts: Array
    """[N, K, 4]."""
    logits: Array | None = None
    """[N, K, C] what the exits output; None if not requested, and for maps."""
    probabilities: Array | None = None
    """For maps, [N, K, C] probabilities of the classes, averaged over the pixels; None if not requested."""
    disagreement: Array | None = None
    """For maps, [N, K] fraction of pixels or tokens whose class differs from the final exit's; else None."""
    errors: Array | None = None
    """For maps, [N, K] fraction of the counted pixels or tokens whose class is wrong; None without labels. A sample
    in which none counts has 0 at every exit."""


def record(
    runner: Runner, dataset: Dataset, *, all_classes: bool = False, progress: Progress = NO_PROGRESS
) -> Recording:
    """Run a data set to full depth and return the readouts of every exit.

    Args:
        runner: runs the stages.
        dataset: the data set.
        all_classes: also record the logits of all classes; for maps, their average probabilities.
        progress: advances by the samples of each batch.

    Raises DataError for label maps of another size than the exits' maps, and if the recording does not fit in memory.

    """
    maps = runner.manifest.has_maps
    samples, exits, classes = len(dataset), len(runner.manifest.exits), runner.manifest.classes
    recording = Recording(
        readouts=_empty(samples, exits, len(COLUMNS)),
        logits=_empty(samples, exits, classes) if all_classes and not maps else None,
        probabilities=_empty(samples, exits, classes) if all_classes and maps else None,
        disagreement=_empty(samples, exits) if maps else None,
        errors=_empty(samples, exits) if maps and dataset.labels is not None else None,
    )
    done = 0
    for batch in dataset.batches(_map_batch(runner, dataset) if maps else _BATCH):
        every = runner.infer_every_exit(batch, probabilities=recording.probabilities is not None)
        count = len(every.readouts)
        part = slice(done, done + count)
        recording.readouts[part] = every.readouts[:, :, : len(COLUMNS)]
        if recording.probabilities is not None:
            recording.probabilities[part] = every.readouts[:, :, len(COLUMNS) :]
        if recording.logits is not None:
            for k, raw in enumerate(every.outputs.values()):
                recording.logits[part, k] = raw
        if recording.disagreement is not None:
            recording.disagreement[part] = differing_fractions(every.outputs)
        if recording.errors is not None and dataset.labels is not None:
            for k, raw in enumerate(every.outputs.values()):
                recording.errors[part, k] = _error_fractions(predictions_of(raw), dataset.labels[part])
        done += count
        progress.advance(count, total=samples)
    return recording


def _empty(*shape: int) -> Array:
    try:
        return np.empty(shape, dtype=np.float32)
    except MemoryError as error:
        raise DataError(
            f"a recording of {shape[0]:,} samples at {shape[1]} exits with {shape[-1]:,} classes needs "
            f"{4 * prod(shape) / 2**30:,.1f} GiB, which is not free; give fewer samples"
        ) from error


def record_outputs(
    runner: Runner, dataset: Dataset, *, batch: int, progress: Progress = NO_PROGRESS
) -> dict[str, npt.NDArray[np.float32]]:
    """Run a data set to full depth, `batch` samples at a time; return exit name -> raw outputs, [N, C] or [N, C, H, W].

    The outputs of all samples are in memory at once: for maps, this can be large.
    """
    found: dict[str, npt.NDArray[np.float32]] = {}
    done = 0
    for inputs in dataset.batches(batch):
        outputs = runner.infer_every_exit(inputs).outputs
        if not found:
            found = {name: np.empty((len(dataset), *raw.shape[1:]), dtype=raw.dtype) for name, raw in outputs.items()}
        count = len(next(iter(outputs.values())))
        for name, raw in outputs.items():
            found[name][done : done + count] = raw
        done += count
        progress.advance(count, total=len(dataset))
    return found


def predictions_of(outputs: npt.NDArray[np.float32]) -> Predictions:
    """Return the most probable class: [B] for outputs [B, C], [B, H, W] for maps [B, C, H, W]."""
    classes: Predictions = outputs.argmax(axis=1)
    return classes


def differing_fractions(outputs: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Return the fraction [B, K] of the pixels or tokens whose class at each exit differs from the final exit's.

    `outputs` is exit name -> maps of logits [B, C, H, W], from shallow to deep.
    """
    *early, final = outputs.values()
    classes = predictions_of(final)
    fractions = np.zeros((len(final), len(early) + 1), dtype=np.float32)
    for k, raw in enumerate(early):
        fractions[:, k] = (predictions_of(raw) != classes).mean(axis=(1, 2))
    return fractions


def not_finite(outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return the samples [B] with a prediction from logits whose highest value is NaN or infinite.

    Such a prediction means nothing: the softmax of these logits is NaN. `outputs` are [B, C] or [B, C, H, W].
    """
    finite: npt.NDArray[np.bool_] = np.isfinite(outputs.max(axis=1))
    return np.asarray(~finite.reshape(len(outputs), -1).all(axis=1), dtype=np.bool_)


def count_correct(
    predictions: Predictions, labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return each sample's numbers of correct and of counted predictions, [B] each.

    A sample has one prediction in classification, and one per pixel or token of maps. Raises DataError for maps of
    different sizes.
    """
    if predictions.shape != labels.shape:
        label_size, exit_size = ("x".join(map(str, shape[1:])) for shape in (labels.shape, predictions.shape))
        raise DataError(f"'labels' are maps of {label_size}, but the exits' maps are {exit_size}; resize them")
    counted = counted_mask(labels)
    within = tuple(range(1, labels.ndim))
    return ((predictions == labels) & counted).sum(axis=within), counted.sum(axis=within)


def _error_fractions(classes: Predictions, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the fraction [B] of the counted pixels whose class is wrong; 0 if no pixel counts."""
    correct, counted = count_correct(classes, labels)
    return (counted - correct) / np.maximum(counted, 1)


def _map_batch(runner: Runner, dataset: Dataset) -> int:
    """Return the batch size for maps. Runs the first sample to measure the size of its maps."""
    first = runner.infer_every_exit(next(dataset.batches(1)))
    bytes_per_sample = sum(raw.nbytes for raw in first.outputs.values())
    return min(max(_MAP_BYTES // bytes_per_sample, 1), _BATCH)

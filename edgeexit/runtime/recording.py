"""Record every exit of a data set: what policies are fitted on. Maps are reduced to shares of pixels on the way."""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.datasets import Dataset, counts_of
from edgeexit.errors import DataError
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.runtime.runner import Runner

_BATCH: Final = 64
_MAP_BYTES: Final = 2**25
"""Of the raw maps of a batch, all exits together; what the stages need on the way there grows with them."""

Predictions = npt.NDArray[np.int64]
"""Classes [B]; to segment, [B, H, W]."""


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """Every exit of every sample of a data set, under temperature 1."""

    readouts: npt.NDArray[np.float32]
    """[N, K, 4], or [N, K, 4 + C] with the probabilities."""
    disagreement: npt.NDArray[np.float32] | None = None
    """To segment, [N, K] share of the pixels whose class is not the final exit's; None: classify."""
    errors: npt.NDArray[np.float32] | None = None
    """To segment, [N, K] share of the counted pixels whose class is wrong; None without labels. A sample with no
    counted pixel has 0 at every exit: it speaks for none of them."""


def record(
    runner: Runner,
    dataset: Dataset,
    *,
    probabilities: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Recording:
    """Run a data set to full depth. Report the number of recorded samples to `progress`.

    Raises DataError for labels that are maps of another size than the exits'.
    """
    maps = runner.manifest.task == "segmentation"
    readouts, disagreement, errors = [], [], []
    done = 0
    for batch in dataset.batches(_map_batch(runner, dataset) if maps else _BATCH):
        every = runner.infer_every_exit(batch, probabilities=probabilities)
        readouts.append(every.readouts)
        count = len(every.readouts)
        if maps:
            classes = [classes_of(raw) for raw in every.outputs.values()]
            disagreement.append(np.stack([(found != classes[-1]).mean(axis=(1, 2)) for found in classes], axis=1))
            if dataset.labels is not None:
                labels = dataset.labels[done : done + count]
                errors.append(np.stack([_error_fractions(found, labels) for found in classes], axis=1))
        done += count
        progress.advance(count, total=len(dataset))
    return Recording(
        readouts=np.concatenate(readouts),
        disagreement=np.concatenate(disagreement).astype(np.float32) if disagreement else None,
        errors=np.concatenate(errors).astype(np.float32) if errors else None,
    )


def record_outputs(
    runner: Runner, dataset: Dataset, *, batch: int, progress: Progress = NO_PROGRESS
) -> dict[str, npt.NDArray[np.float32]]:
    """Run a data set to full depth, `batch` samples at a time; return exit name -> raw outputs, [N, C] or [N, C, H, W].

    All of them are kept: maps take much memory.
    """
    kept: dict[str, npt.NDArray[np.float32]] = {}
    done = 0
    for inputs in dataset.batches(batch):
        outputs = runner.infer_every_exit(inputs).outputs
        if not kept:
            kept = {name: np.empty((len(dataset), *raw.shape[1:]), dtype=raw.dtype) for name, raw in outputs.items()}
        count = len(next(iter(outputs.values())))
        for name, raw in outputs.items():
            kept[name][done : done + count] = raw
        done += count
        progress.advance(count, total=len(dataset))
    return kept


def classes_of(outputs: npt.NDArray[np.float32]) -> Predictions:
    """Return the most probable class: [B] of outputs [B, C], [B, H, W] of maps [B, C, H, W]."""
    classes: Predictions = outputs.argmax(axis=1)
    return classes


def count_right(
    predictions: Predictions, labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many of each sample's answers are right, and of how many that count: [B] each.

    A sample is one answer to classify, and a pixel is one to segment. Raises DataError for maps of different sizes.
    """
    if predictions.shape != labels.shape:
        sizes = ("x".join(map(str, shape[1:])) for shape in (labels.shape, predictions.shape))
        raise DataError("'labels' are maps of {} where the exits' are {}; resize them".format(*sizes))
    counts = counts_of(labels)
    within = tuple(range(1, labels.ndim))
    return ((predictions == labels) & counts).sum(axis=within), counts.sum(axis=within)


def _error_fractions(classes: Predictions, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    right, counted = count_right(classes, labels)
    return (counted - right) / np.maximum(counted, 1)


def _map_batch(runner: Runner, dataset: Dataset) -> int:
    """Return how many samples to run at a time; one is run to see how large its maps are."""
    first = runner.infer_every_exit(next(dataset.batches(1)))
    of_one = sum(raw.nbytes for raw in first.outputs.values())
    return min(max(_MAP_BYTES // of_one, 1), _BATCH)

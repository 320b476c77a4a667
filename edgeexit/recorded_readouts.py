"""Runs the compiled stages on a data set to full depth, and returns the readout dataset that a policy is fitted to."""

from collections.abc import Sequence

from edgeexit.bundle import Bundle
from edgeexit.compiler.readout_model import StageReadouts
from edgeexit.datasets import Dataset
from edgeexit.fitting import MapLosses, ReadoutDataset
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.runtime import Runner, record


def record_readouts(
    bundle: Bundle, dataset: Dataset, costs: Sequence[float], *, progress: Progress = NO_PROGRESS
) -> ReadoutDataset:
    """Return the readouts of every exit at temperature 1, with the logits of a classifier.

    Readouts under other temperatures are computed from the logits by the stages' own readout nodes, so they equal to
    the bit what the stages compute on the CPU. For segmentation and tagging, the average probabilities are recorded.

    Args:
        bundle: an opened bundle.
        dataset: the data set.
        costs: [K] cumulative cost of each exit.
        progress: advances by the samples of each batch.

    Raises DataError for label maps of another size than the exits' maps, and if the recording does not fit in memory.

    """
    with Runner(bundle) as runner:
        recording = record(runner, dataset, all_classes=True, progress=progress)
    if recording.logits is not None:
        return ReadoutDataset.from_logits(
            recording.logits,
            costs=costs,
            labels=dataset.labels,
            readouts=recording.readouts,
            read=StageReadouts(bundle),
        )
    if recording.disagreement is None:
        raise AssertionError("a recording has logits or maps")
    maps = MapLosses(
        disagreement=recording.disagreement, errors=recording.errors, probabilities=recording.probabilities
    )
    return ReadoutDataset(
        readouts=recording.readouts,
        costs=tuple(float(cost) for cost in costs),
        temperatures=(1.0,) * len(costs),
        maps=maps,
    )

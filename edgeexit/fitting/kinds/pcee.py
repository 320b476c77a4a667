"""What top-1 probabilities have been worth: held-out accuracy by bin, at every exit."""

import numpy as np

from edgeexit.fitting.kinds.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.fitting.temperature import readings
from edgeexit.policies.pcee import Pcee
from edgeexit.policies.readout import P1, Array

_BINS = 50
_ENOUGH = 50
"""Samples that an accuracy is taken from."""


def pcee_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Pcee, ...]:
    """Return PCEE with each early exit's accuracies, under fitted temperatures and as it is."""
    return tuple(
        Pcee(
            temperatures=read.temperatures,
            thresholds=(None,) * (read.exits - 1),
            accuracies=tuple(_accuracies(p1, loss) for p1, loss in _early(read)),
        )
        for read in readings(dataset, fit=options.temperatures)
    )


def _early(dataset: ReadoutDataset) -> list[tuple[Array, Values]]:
    """Return top-1 probability and loss [N] of every exit but the last."""
    losses = dataset.losses(dataset.exit_predictions)
    return [(dataset.readouts[:, k, P1], losses[:, k]) for k in range(dataset.exits - 1)]


def _accuracies(p1: Array, losses: Values, bins: int = _BINS) -> tuple[float, ...]:
    """Return the accuracy in each of `bins` equal bins of top-1 probability, from 0 to 1.

    As in the paper, it is the plain mean in a bin, rising with the probability or not. The paper leaves open what a bin
    says that has few samples or none (one lucky sample would pass any threshold): such a bin takes in its neighbours,
    as many on either side, until they have 50 samples together.

    Source: reliability diagrams in PCEE (Mofakhami et al., arXiv:2412.19325).
    """
    place = np.minimum((p1 * np.float32(bins)).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    right = np.bincount(place, weights=1 - losses, minlength=bins)
    enough = min(_ENOUGH, len(p1))
    accuracies = []
    for middle in range(bins):
        reach = 0
        while count[max(middle - reach, 0) : middle + reach + 1].sum() < enough:
            reach += 1
        around = slice(max(middle - reach, 0), middle + reach + 1)
        accuracies.append(round(float(right[around].sum() / count[around].sum()), 4))
    return tuple(accuracies)

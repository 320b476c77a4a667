"""How `pcee` is fitted: the accuracy of held-out samples in each bin of confidence, at every early exit."""

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.kind import FittingKind, PublishedMethod
from edgeexit.fitting.kinds.unfitted import unfitted
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.fitting.temperature import temperature_variants
from edgeexit.policies.pcee import Pcee
from edgeexit.policies.readout import P1, Array

_BINS = 50
_MIN_SAMPLES = 50
"""Minimum number of samples from which an accuracy is computed, if the dataset has as many."""


def pcee_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Pcee, ...]:
    """Return PCEE with the accuracies of each early exit, under fitted temperatures and under base temperatures."""
    return tuple(_fitted(variant) for variant in temperature_variants(dataset, fit=options.temperatures))


def pcee_rule(dataset: ReadoutDataset, delta: float) -> Pcee:
    """Return PCEE with the paper's threshold: `delta` at all exits.

    A sample exits where held-out samples of its confidence were right at a rate of at least `delta`. Raises
    FittingError for a `delta` outside [0, 1].

    Source: Mofakhami et al., arXiv:2412.19325.
    """
    if not 0 <= delta <= 1:
        raise FittingError(f"delta {delta:g} must be between 0 and 1, e.g. 0.9")
    return msgspec.structs.replace(_fitted(dataset), thresholds=(float(delta),) * (dataset.exits - 1))


def _fitted(dataset: ReadoutDataset) -> Pcee:
    losses = dataset.losses(dataset.exit_predictions)
    accuracies = tuple(_accuracies(dataset.readouts[:, k, P1], losses[:, k]) for k in range(dataset.exits - 1))
    return unfitted(Pcee, dataset, accuracies=accuracies)


def _accuracies(p1: Array, losses: Values, bins: int = _BINS) -> tuple[float, ...]:
    """Return the accuracy in each of `bins` equal bins of top-1 probability, from 0 to 1.

    As in the paper, it is the plain mean of a bin, whether or not it rises with the probability. The paper does not
    define the accuracy of a bin with few or no samples, in which one right sample would give an accuracy of 1. Here,
    such a bin is joined with its neighbours, as many on either side, until there are 50 samples.

    Source: reliability diagrams in PCEE (Mofakhami et al., arXiv:2412.19325).
    """
    place = np.minimum((p1 * np.float32(bins)).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    right = np.bincount(place, weights=1 - losses, minlength=bins)
    wanted = min(_MIN_SAMPLES, len(p1))
    accuracies = []
    for middle in range(bins):
        reach = 0
        while count[max(middle - reach, 0) : middle + reach + 1].sum() < wanted:
            reach += 1
        around = slice(max(middle - reach, 0), middle + reach + 1)
        accuracies.append(round(float(right[around].sum() / count[around].sum()), 4))
    return tuple(accuracies)


KIND = FittingKind(
    policy=Pcee,
    summary="accuracy of held-out samples of this confidence",
    learns=("temperatures", "accuracy per bin of confidence"),
    source="PCEE (Mofakhami et al., 2024)",
    make_candidates=pcee_candidates,
    published=PublishedMethod(name="PCEE", parameter="accuracy", fit=pcee_rule),
)

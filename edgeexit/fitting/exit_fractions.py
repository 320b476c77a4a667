"""From the share of samples that is to leave at each exit to thresholds that let as many leave."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.frontier import Thresholds
from edgeexit.policies.readout import Array

_SLACK = 1e-9
"""What rounding may take from share x samples (0.29 x 100 is a hair below 29) without costing a sample."""


def thresholds_for_fractions(scores: Array, fractions: Sequence[float]) -> Thresholds:
    """Return thresholds [K-1] under which floor(share x N) samples leave at each exit; the final exit takes the rest.

    In order of depth, over the samples that are left: the threshold of exit k is the n_k-th largest of their scores;
    None where n_k is 0 or none are left. Ties leave, so that more may leave than asked, never fewer while some are
    left. `scores` [N, K] of a policy, `shares` [K]. Raises FittingError for shares that are not K parts of one whole.

    Source: MSDNet (Huang et al., ICLR 2018) and EENet (arXiv:2301.07099, algorithm 1).
    """
    samples, exits = scores.shape
    left = np.ones(samples, dtype=np.bool_)
    thresholds: list[float | None] = []
    for k, count in enumerate(_counts(fractions, samples, exits)[:-1]):
        remaining = scores[left, k]
        wanted = min(count, len(remaining))
        if not wanted:
            thresholds.append(None)
            continue
        threshold = np.partition(remaining, len(remaining) - wanted)[len(remaining) - wanted]
        thresholds.append(float(threshold))
        left &= scores[:, k] < threshold
    return tuple(thresholds)


def fractions_within_budget(
    fractions: Sequence[float], samples: int, costs: Sequence[float], budget: float
) -> tuple[float, ...]:
    """Return shares [K] of whole samples whose mean cost is at most `budget`, those given where they are within it.

    Rounding down hands samples to the final exit, so that shares within a budget may realise a cost above it. While
    they do, samples step back from the deepest exit that has any to the one before it. `costs` [K] cumulative. Raises
    FittingError for a budget below the cost of the first exit, or shares as in `thresholds_for_fractions`.
    """
    if budget < costs[0]:
        raise FittingError(f"a mean cost of {budget:g} cannot be reached: the first exit alone costs {costs[0]:g}")
    counts = _counts(fractions, samples, len(costs))
    for k in range(len(costs) - 1, 0, -1):
        excess = float(np.dot(counts, costs)) - budget * samples
        if excess <= 0:
            break
        back = min(counts[k], ceil(excess / (costs[k] - costs[k - 1])))
        counts[k] -= back
        counts[k - 1] += back
    return tuple(count / samples for count in counts)


def _counts(fractions: Sequence[float], samples: int, exits: int) -> list[int]:
    """Return how many of the samples leave at each exit [K], all of them somewhere."""
    values = [float(fraction) for fraction in fractions]
    if len(values) != exits or not all(fraction >= 0 for fraction in values) or abs(sum(values) - 1) > 1e-3:  # noqa: PLR2004
        raise FittingError(f"shares {values} must be {exits} numbers of at least 0 that add up to 1")
    counts = [floor(fraction * samples + _SLACK) for fraction in values[:-1]]
    return [*counts, samples - sum(counts)]

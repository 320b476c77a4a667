"""Converts exit fractions (the fraction of the samples that exits at each exit) to thresholds."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.frontier import Thresholds
from edgeexit.policies.readout import Array

_SLACK = 1e-9
"""Rounding error of fraction * samples that is ignored: 0.29 * 100 is slightly below 29."""


def thresholds_for_fractions(scores: Array, fractions: Sequence[float]) -> Thresholds:
    """Return thresholds [K-1] at which n_k = floor(fraction x N) samples exit at each early exit.

    In order of depth, the threshold of exit k is the n_k-th highest score of the samples that remain; None if n_k is 0
    or no samples remain. Equal scores exit together, so more samples can exit than n_k. `scores` [N, K] of a policy,
    `fractions` [K]. Raises FittingError unless the fractions are K numbers of at least 0 that sum to 1.

    Source: MSDNet (Huang et al., ICLR 2018) and EENet (arXiv:2301.07099, algorithm 1).
    """
    samples, exits = scores.shape
    remaining = np.ones(samples, dtype=np.bool_)
    thresholds: list[float | None] = []
    for k, count in enumerate(_counts(fractions, samples, exits)[:-1]):
        scores_here = scores[remaining, k]
        wanted = min(count, len(scores_here))
        if not wanted:
            thresholds.append(None)
            continue
        threshold = np.partition(scores_here, len(scores_here) - wanted)[len(scores_here) - wanted]
        thresholds.append(float(threshold))
        remaining &= scores[:, k] < threshold
    return tuple(thresholds)


def fractions_within_budget(
    fractions: Sequence[float], samples: int, costs: Sequence[float], budget: float
) -> tuple[float, ...]:
    """Return the exit fractions [K] rounded to multiples of 1 / `samples`, at a mean cost of at most `budget`.

    Rounding down moves samples to the final exit, so the cost can exceed the budget. Then samples move from the deepest
    exits to the exits before them. `costs` [K] cumulative. Raises FittingError for a budget below the cost
    of the first exit, or for fractions as in `thresholds_for_fractions`.
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
    """Return the number of samples that exit at each exit [K]; the sum is `samples`."""
    values = [float(fraction) for fraction in fractions]
    if len(values) != exits or not all(fraction >= 0 for fraction in values) or abs(sum(values) - 1) > 1e-3:  # noqa: PLR2004
        raise FittingError(f"exit fractions {values} must be {exits} numbers of at least 0 that sum to 1")
    counts = [floor(fraction * samples + _SLACK) for fraction in values[:-1]]
    return [*counts, samples - sum(counts)]

"""Nested thresholds from full depth to a bold policy: from recorded samples, or from a policy without any samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.frontier import Thresholds, frontier
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.replay import replay
from edgeexit.policies import Policy
from edgeexit.policies.readout import Array

_FIRST_GAP = 1 / 4096
"""Gap between score limit and threshold after full depth, as a fraction of the gap at the last point."""


def threshold_path(policy: Policy, dataset: ReadoutDataset, *, max_points: int = 64) -> tuple[Thresholds, ...]:
    """Return at most `max_points` (at least 2) nested thresholds from full depth to the lowest cost.

    The first entry is all None. From entry to entry, no sample of `dataset` exits later and at least one exits earlier;
    if no sample can exit early, full depth is the only entry. The order is that of `frontier`: the most saved cost
    first, per unit of disagreement with the final exit that is expected. The path depends on all samples of `dataset`,
    so only other samples can certify a point of it.

    Args:
        policy: its kind, temperatures and weights are used, and its thresholds are not.
        dataset: at least 2 samples. Readouts suffice if they have the temperatures of `policy`.
        max_points: maximum number of entries.

    Raises FittingError only if the logits are missing that other temperatures, or a policy that reads the probabilities
    of all classes, need.

    """
    scores, predictions = replay(policy, dataset)
    return path_of_scores(scores, dataset.disagreement(predictions), dataset.costs, max_points=max_points)


def path_of_scores(
    scores: Array, losses: npt.NDArray[Any], costs: Sequence[float], *, max_points: int = 64
) -> tuple[Thresholds, ...]:
    """Return the same as `threshold_path` for samples whose scores [N, K] float32 under the policy are known.

    `losses` [N, K] in [0, 1] are those of the policy's prediction at each exit, `costs` [K] are cumulative.
    """
    points = frontier(scores, np.asarray(losses, np.float64), np.asarray(costs, np.float64), max_points=max_points)
    return tuple(point.thresholds for point in points)


def conservative_path(policy: Policy, *, points: int = 24) -> tuple[Thresholds, ...]:
    """Return at most `points` (at least 2) nested thresholds from full depth (all None) to those of `policy`.

    No samples are needed. From the last entry to the first, the gap between the score limit of an exit and its
    threshold shrinks geometrically, to 1/4096 of the gap in `policy`, so that ever fewer samples exit there. An exit
    without a threshold has none in any entry. A threshold that is not below its score limit has no gap: it is the same
    in all entries but the first.
    """
    between = max(points - 2, 0)
    steps = [_at_gap(policy, _FIRST_GAP ** (1 - k / between)) for k in range(between)]
    full_depth: Thresholds = (None,) * (policy.exits - 1)
    return tuple(dict.fromkeys([full_depth, *steps, policy.thresholds]))


def _at_gap(policy: Policy, gap: float) -> Thresholds:
    """Return the thresholds at a gap to the score limit that is `gap` times the gap in `policy`."""
    limited = zip(policy.thresholds, policy.score_limits, strict=False)
    return tuple(None if t is None else t + (1 - gap) * max(limit - t, 0.0) for t, limit in limited)

"""Replay a policy over recorded readouts of every exit, without running a model."""

from typing import cast

import numpy as np
import numpy.typing as npt

from edgeexit.policies.base import Policy
from edgeexit.policies.readout import TOP1, Array


def simulate_scores(policy: Policy, readouts: Array) -> Array:
    """Return the score [N, K] of every sample at every exit, as if none had left; readouts are [N, K, 4]."""
    samples, exits = readouts.shape[:2]
    scores = np.empty((samples, exits), dtype=np.float32)
    state = policy.initial_state(samples)
    for exit_index in range(exits):
        scores[:, exit_index], state = policy.score(exit_index, readouts[:, exit_index], state)
    return scores


def exits_of(scores: Array, thresholds: tuple[float | None, ...]) -> npt.NDArray[np.int64]:
    """Return the first exit [N] whose score [N, K] reaches its threshold [K-1]; the final exit takes the rest."""
    limits = np.array([np.inf if t is None else t for t in thresholds], dtype=np.float32)
    leaves = np.ones(scores.shape, dtype=np.bool_)
    leaves[:, :-1] = scores[:, :-1] >= limits
    return cast("npt.NDArray[np.int64]", leaves.argmax(axis=1))


def simulate_exits(policy: Policy, readouts: Array) -> npt.NDArray[np.int64]:
    """Return the exit [N] at which each sample leaves; readouts are [N, K, 4] under the policy's temperatures."""
    return exits_of(simulate_scores(policy, readouts), policy.thresholds)


def disagrees(readouts: Array, exits: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return where the answer at the exit taken [N] differs from the final exit's; readouts are [N, K, 4]."""
    answers = readouts[np.arange(len(readouts)), exits, TOP1]
    return cast("npt.NDArray[np.bool_]", answers != readouts[:, -1, TOP1])


def exit_rates(exits: npt.NDArray[np.int64], count: int) -> tuple[float, ...]:
    """Return the share [count] of samples that left at each exit."""
    return tuple(float(rate) for rate in np.bincount(exits, minlength=count) / max(len(exits), 1))

"""Applies a policy to recorded readouts of all exits, without running a model."""

from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from edgeexit.policies.base import Policy
from edgeexit.policies.readout import TOP1, Array, as_float32


class Simulation(NamedTuple):
    """Scores and predictions of all samples at all exits; they do not depend on the thresholds."""

    scores: Array
    """[N, K] float32."""
    predictions: npt.NDArray[np.int64]
    """[N, K] prediction of the policy at each exit; -1 if the readout is not finite."""


def simulate(policy: Policy, readouts: Array) -> Simulation:
    """Return scores and predictions [N, K] for readouts [N, K, 4] or [N, K, 4 + C] under the policy's temperatures."""
    samples, exits = readouts.shape[:2]
    scores = np.empty((samples, exits), dtype=np.float32)
    predictions = np.empty((samples, exits), dtype=np.int64)
    state = policy.initial_state(samples)
    for k in range(exits):
        decision = policy.decide(k, readouts[:, k], state)
        scores[:, k], state = decision.score, decision.state
        predictions[:, k] = np.where(np.isfinite(decision.prediction), decision.prediction, -1)
    return Simulation(scores, predictions)


def exits_of(scores: Array, thresholds: tuple[float | None, ...]) -> npt.NDArray[np.int64]:
    """Return the exit [N] of each sample: the first whose score is at least its threshold, or the final exit.

    `scores` [N, K], `thresholds` [K-1].
    """
    limits = as_float32([np.inf if t is None else t for t in thresholds])
    exit_mask = np.ones(scores.shape, dtype=np.bool_)
    exit_mask[:, :-1] = scores[:, :-1] >= limits
    return cast("npt.NDArray[np.int64]", exit_mask.argmax(axis=1))


def simulate_exits(policy: Policy, readouts: Array) -> npt.NDArray[np.int64]:
    """Return the exit [N] at which each sample exits; readouts as in `simulate`."""
    return exits_of(simulate(policy, readouts).scores, policy.thresholds)


def disagrees(policy: Policy, readouts: Array) -> npt.NDArray[np.bool_]:
    """Return True [N] where the policy's prediction differs from the final exit's; readouts as in `simulate`."""
    scores, predictions = simulate(policy, readouts)
    taken = predictions[np.arange(len(predictions)), exits_of(scores, policy.thresholds)]
    return cast("npt.NDArray[np.bool_]", taken != readouts[:, -1, TOP1])


def exit_rates(exits: npt.NDArray[np.int64], count: int) -> tuple[float, ...]:
    """Return the fraction of the samples [N] that exit at each of `count` exits."""
    return tuple(float(rate) for rate in np.bincount(exits, minlength=count) / max(len(exits), 1))

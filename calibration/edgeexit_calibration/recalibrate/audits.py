"""Audits as the recalibration reads them, and the losses of policies on them. Pure functions of arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.frontier import Thresholds
from edgeexit.policies import Policy, Simulation, simulate
from edgeexit.policies.readout import TOP1, Array, as_float32


class Audits(NamedTuple):
    """Audited samples in the order of arrival, all under the same temperatures."""

    ids: npt.NDArray[np.int64]
    """[N] increasing."""
    devices: npt.NDArray[np.int64]
    """[N] id of the device that sent each of them."""
    readouts: Array
    """[N, K, 4] float32."""
    scores: Array | None = None
    """[N, K] float32, if the policy reads the probabilities of all classes; else None."""
    predictions: npt.NDArray[np.int64] | None = None
    """[N, K] of the policy at each exit, beside `scores`."""

    def part(self, start: int, stop: int | None = None) -> "Audits":
        """Return the audits from place `start` until before `stop`."""
        scores = None if self.scores is None else self.scores[start:stop]
        predictions = None if self.predictions is None else self.predictions[start:stop]
        return Audits(self.ids[start:stop], self.devices[start:stop], self.readouts[start:stop], scores, predictions)

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Audits":
        """Return the audits at the places where `chosen` [N] is True."""
        scores = None if self.scores is None else self.scores[chosen]
        predictions = None if self.predictions is None else self.predictions[chosen]
        return Audits(self.ids[chosen], self.devices[chosen], self.readouts[chosen], scores, predictions)

    def after(self, audit_id: int) -> "Audits":
        """Return the audits with higher ids."""
        return self.part(int(np.searchsorted(self.ids, audit_id, side="right")))


class Outcomes(NamedTuple):
    """What would have happened to audited samples under each of several thresholds."""

    exits: npt.NDArray[np.int64]
    """[N, P]"""
    losses: npt.NDArray[np.bool_]
    """[N, P] True where the prediction differs from the final exit's."""


def simulated(policy: Policy, audits: Audits) -> Simulation:
    """Return the scores and predictions [N, K] of audits, as devices sent them or from their readouts."""
    if audits.scores is None or audits.predictions is None:
        return simulate(policy, audits.readouts)
    return Simulation(audits.scores, audits.predictions)


def differences(predictions: npt.NDArray[np.int64], audits: Audits) -> npt.NDArray[np.bool_]:
    """Return whether the predictions [N, K] of a policy at each exit differ from the final exit's."""
    differs = predictions != audits.readouts[:, -1:, TOP1]
    differs[:, -1] = False
    return np.asarray(differs)


def outcomes(policy: Policy, audits: Audits, points: Sequence[Thresholds]) -> Outcomes:
    """Return exits and losses [N, P] of audits under a policy with each of P thresholds."""
    scores, predictions = simulated(policy, audits)
    differs = differences(predictions, audits)
    limits = as_float32([[np.inf if one is None else one for one in thresholds] for thresholds in points])
    exits = np.full((len(scores), len(points)), scores.shape[1] - 1, dtype=np.int64)
    for k in reversed(range(scores.shape[1] - 1)):
        exits[scores[:, k, None] >= limits[:, k]] = k
    return Outcomes(exits, differs[np.arange(len(scores))[:, None], exits])


def mean_costs(exits: npt.NDArray[np.int64], costs: Sequence[float]) -> npt.NDArray[Any]:
    """Return the mean cost [P] of samples that exit at `exits` [N, P], given the cumulative cost [K] of each exit."""
    return np.asarray(np.asarray(costs)[exits].mean(axis=0))

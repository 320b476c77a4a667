"""Audits as the recalibration reads them, and the losses of policies on them. Pure functions of arrays."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.fitting.frontier import Thresholds
from edgeexit.policies import Policy, Simulation, simulate
from edgeexit.policies.document import Loss
from edgeexit.policies.readout import TOP1, Array, as_float32

AuditLoss = Loss | Literal["error"]
"""What `exit_losses` computes. error: 1 if the prediction is wrong; full depth has it, too, so it is not guaranteed."""


class Audits(NamedTuple):
    """Audited samples in the order of arrival, all under the same temperatures."""

    ids: npt.NDArray[np.int64]
    """[N] increasing."""
    devices: npt.NDArray[np.int64]
    """[N] id of the device that sent each of them."""
    readouts: Array
    """[N, K, 4] float32."""
    scores: Array | None = None
    """[N, K] float32 of the policy; None: they follow from the readouts, if it does not read the probabilities of all
    classes."""
    predictions: npt.NDArray[np.int64] | None = None
    """[N, K] of the policy at each exit, beside `scores`."""
    labels: npt.NDArray[np.int64] | None = None
    """[N] true class, -1 if it is not known; None: no label is known."""
    differing: npt.NDArray[np.float32] | None = None
    """[N, K] fraction of the map of each exit that differs from the final exit's; None for a model without maps."""

    def part(self, start: int, stop: int | None = None) -> "Audits":
        """Return the audits from place `start` until before `stop`."""
        return Audits._make(None if column is None else column[start:stop] for column in self)

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Audits":
        """Return the audits at the places where `chosen` [N] is True."""
        return Audits._make(None if column is None else column[chosen] for column in self)

    def without(self, devices: Sequence[int]) -> "Audits":
        """Return the audits of the other devices."""
        return self.where(~np.isin(self.devices, devices)) if len(devices) else self

    def after(self, audit_id: int) -> "Audits":
        """Return the audits with higher ids."""
        return self.part(int(np.searchsorted(self.ids, audit_id, side="right")))


class Outcomes(NamedTuple):
    """What would have happened to audited samples under each of several thresholds."""

    exits: npt.NDArray[np.int64]
    """[N, P]"""
    losses: npt.NDArray[np.float64]
    """[N, P] in [0, 1], see `exit_losses`."""


def simulated(policy: Policy, audits: Audits) -> Simulation:
    """Return the scores and predictions [N, K] of audits, as devices sent them or from their readouts."""
    if audits.scores is None or audits.predictions is None:
        return simulate(policy, audits.readouts)
    return Simulation(audits.scores, audits.predictions)


def exit_losses(predictions: npt.NDArray[np.int64], audits: Audits, loss: AuditLoss) -> npt.NDArray[np.float64]:
    """Return the loss [N, K] in [0, 1] of each sample at each exit, if it exits there.

    Args:
        predictions: [N, K] of a policy at each exit, see `simulated`. At the final exit, each policy returns the
            prediction of the final exit.
        audits: the samples; with labels, unless the loss is "disagreement".
        loss: see `AuditLoss`. The disagreement of maps is the fraction that differs; it has no label.

    """
    if audits.differing is not None:
        if loss != "disagreement":
            raise ValueError(f"the loss '{loss}' of maps is not known, because audits contain no maps of labels")
        return audits.differing.astype(np.float64)
    final = audits.readouts[:, -1:, TOP1]
    differs: npt.NDArray[np.bool_] = np.asarray(predictions != final)
    differs[:, -1] = False
    if loss == "disagreement":
        return differs.astype(np.float64)
    if audits.labels is None or (audits.labels < 0).any():
        raise ValueError(f"the loss '{loss}' needs the label of each sample")
    labels = audits.labels[:, None]
    if loss == "regret":
        return np.asarray(differs & (final == labels), np.float64)
    return np.asarray(np.where(differs, predictions, final) != labels, np.float64)


def point_exits(scores: Array, points: Sequence[Thresholds]) -> npt.NDArray[np.int64]:
    """Return the exit [N, P] of samples with scores [N, K] under each of P thresholds."""
    limits = as_float32([[np.inf if one is None else one for one in thresholds] for thresholds in points])
    exits = np.full((len(scores), len(points)), scores.shape[1] - 1, dtype=np.int64)
    for k in reversed(range(scores.shape[1] - 1)):
        exits[scores[:, k, None] >= limits[:, k]] = k
    return exits


def outcomes(policy: Policy, audits: Audits, points: Sequence[Thresholds], loss: AuditLoss) -> Outcomes:
    """Return exits and losses [N, P] of audits under a policy with each of P thresholds."""
    scores, predictions = simulated(policy, audits)
    exits = point_exits(scores, points)
    return Outcomes(exits, exit_losses(predictions, audits, loss)[np.arange(len(scores))[:, None], exits])


def mean_costs(exits: npt.NDArray[np.int64], costs: Sequence[float]) -> npt.NDArray[Any]:
    """Return the mean cost [P] of samples that exit at `exits` [N, P], given the cumulative cost [K] of each exit."""
    return np.asarray(np.asarray(costs)[exits].mean(axis=0))

"""Fits a cohort's next policy to its recent audits, or returns why the refit is postponed. Pure functions, no I/O.

A refit uses the audits after the change that the drift detector estimates. The detector raises its alarm after many
losses, so these audits tend to contain more losses than later ones, and the certificate is conservative. If the change
is estimated too early, the fit includes older samples with fewer losses; then the detector of the next revision raises
a new alarm.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from edgeexit.errors import FittingError
from edgeexit.fitting import Fit, MaxRisk, ReadoutDataset, fit_thresholds, samples_needed
from edgeexit.policies import Policy
from edgeexit.policies.readout import Array

_SEED = 0


class PostponedRefit(msgspec.Struct, frozen=True, kw_only=True):
    """Why a refit is postponed; the current policy stays active."""

    cause: Literal["too few audits", "no policy fits", "no revision left"]
    reason: str


def refit(
    current: Policy,
    readouts: Array,
    costs: Sequence[float],
    *,
    risk: float,
    delta: float,
    min_audits: int | None = None,
) -> Fit | PostponedRefit:
    """Return a policy fitted to the readouts of audits, or why the refit is postponed.

    Args:
        current: the current policy; the new one has the same kind, temperatures and weights.
        readouts: [N, K, 4] float32, at the temperatures of the current policy; the order of the samples is irrelevant.
        costs: [K] cumulative cost of each exit.
        risk: upper bound on the disagreement with the final exit, to be certified.
        delta: probability with which that bound may fail.
        min_audits: minimum number of audits; default: twice the minimum that a certificate needs.

    """
    if current.reads_probabilities:
        reason = (
            f"policy '{current.kind}' reads the probabilities of all classes, but audits contain only the top-1 class, "
            "the two highest probabilities and the entropy; fit the policy again on held-out samples"
        )
        return PostponedRefit(cause="no policy fits", reason=reason)
    needed = 2 * samples_needed(risk, delta) if min_audits is None else min_audits
    if len(readouts) < needed:
        reason = f"{len(readouts)} audits since the change, but {needed} are needed"
        return PostponedRefit(cause="too few audits", reason=reason)
    dataset = ReadoutDataset(readouts=readouts, costs=tuple(costs), temperatures=current.temperatures)
    try:
        return fit_thresholds(current, dataset, MaxRisk(risk=risk, delta=delta), seed=_SEED)
    except FittingError as error:
        return PostponedRefit(cause="no policy fits", reason=str(error))

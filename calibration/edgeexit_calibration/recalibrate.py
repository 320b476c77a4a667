"""From recent audits to a policy for a cohort, or to the reason why it must wait. Pure.

The audits since a change were picked by an alarm that losses raised, so at its beginning the sample holds rather too
many of them than too few: the certificate errs to the safe side. A change that is put too early lets older, easier
samples in; then the watch on the next revision raises its own alarm.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from edgeexit.errors import FittingError
from edgeexit.fitting import Fit, MaxRisk, ReadoutDataset, fit_thresholds, samples_needed
from edgeexit.policies import AnyPolicy
from edgeexit.policies.readout import Array

_SEED = 0


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """The policy stays as it is for now."""

    cause: Literal["too few audits", "no policy fits"]
    reason: str


def refit(
    current: AnyPolicy,
    readouts: Array,
    costs: Sequence[float],
    *,
    risk: float,
    delta: float,
    min_audits: int | None = None,
) -> Fit | Hold:
    """Return a policy fitted to audits [N, K, 4] taken under the current temperatures, or why not yet.

    Args:
        current: the policy in force; the next keeps its kind, temperatures and weights.
        readouts: of every exit, in any order.
        costs: [K] cumulative cost of leaving at each exit.
        risk: bound on the disagreement to certify.
        delta: probability with which the bound may fail.
        min_audits: wait for as many; default: twice what a certificate needs at the least.

    """
    if current.reads_probabilities:
        reason = (
            f"policy '{current.kind}' reads the probabilities of all classes, and audits hold top-1, top-2 and entropy "
            "only; fit it again on held-out samples"
        )
        return Hold(cause="no policy fits", reason=reason)
    wanted = 2 * samples_needed(risk, delta) if min_audits is None else min_audits
    if len(readouts) < wanted:
        reason = f"{len(readouts)} audits since the change, {wanted} are needed"
        return Hold(cause="too few audits", reason=reason)
    dataset = ReadoutDataset(readouts=readouts, costs=tuple(costs), temperatures=current.temperatures)
    try:
        return fit_thresholds(current, dataset, MaxRisk(risk=risk, delta=delta), seed=_SEED)
    except FittingError as error:
        return Hold(cause="no policy fits", reason=str(error))

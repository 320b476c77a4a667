"""The certificates of the policies that a guarantee puts in force."""

from typing import Any

import numpy.typing as npt

from edgeexit.policies import Certificate, exit_rates
from edgeexit.policies.document import Loss
from edgeexit_calibration.recalibrate.chosen_point import ChosenPoint


def certificate_of(chosen: ChosenPoint, exits: int, *, risk: float, delta: float, loss: Loss) -> Certificate:
    """Return the certificate of a point of a path, for policies with so many exits."""
    test, point = chosen.path.test, chosen.point
    if not point:
        return certificate_of_full_depth(chosen.exits, exits, risk=risk, delta=delta)
    return Certificate(
        loss=loss,
        method="betting, at any time, fixed sequence",
        samples=test.samples,
        risk=risk,
        delta=delta,
        observed=float(test.loss_sums[point]) / test.weight,
        upper_bound=min(test.upper_bound(point), risk),
        exit_rates=exit_rates(chosen.exits, exits),
    )


def certificate_of_full_depth(samples: npt.NDArray[Any], exits: int, *, risk: float, delta: float) -> Certificate:
    """Return the certificate of full depth, which has no loss; `samples` [N] exit at the final exit.

    It is that of the disagreement, which is at least every other loss: agents that know no other loss reject documents
    that name one, and a policy that steps back must reach them, too.
    """
    return Certificate(
        loss="disagreement",
        method="full depth",
        samples=max(len(samples), 1),
        risk=risk,
        delta=delta,
        observed=0.0,
        upper_bound=0.0,
        exit_rates=exit_rates(samples, exits),
    )

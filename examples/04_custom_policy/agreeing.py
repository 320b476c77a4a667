"""A policy of your own: confidence, lowered where an exit contradicts the exit before it."""

import numpy as np

from edgeexit.fitting import FitOptions, FittingKind, ReadoutDataset, register_fitting_kind
from edgeexit.policies import Policy, register_policy
from edgeexit.policies.readout import P1, TOP1, Array

DISCOUNTS = (1.0, 0.8, 0.6)


class Agreeing(Policy, frozen=True, kw_only=True, tag="agreeing"):
    """The score is the top-1 probability; it is multiplied by `discount` where the top-1 class has changed.

    The class holds only numbers, so it can be stored in a bundle, signed, and sent to devices.
    """

    discount: float

    def score(self, exit_index: int, readout: Array, state: Array) -> tuple[Array, Array]:
        """Return the score [B] and the new state [B, 1]: the class of this exit."""
        predictions = readout[:, TOP1 : TOP1 + 1]  # [B, 1]
        if exit_index == 0:
            return readout[:, P1], predictions
        changed = (predictions != state)[:, 0]
        return np.where(changed, np.float32(self.discount) * readout[:, P1], readout[:, P1]), predictions


def make_candidates(dataset: ReadoutDataset, options: FitOptions) -> tuple[Agreeing, ...]:  # noqa: ARG001
    """Return one policy without thresholds per discount; the fit takes the best, and chooses its thresholds."""
    return tuple(
        Agreeing(temperatures=dataset.temperatures, thresholds=(None,) * (dataset.exits - 1), discount=discount)
        for discount in DISCOUNTS
    )


register_policy(Agreeing)
register_fitting_kind(
    FittingKind(
        policy=Agreeing,
        summary="top-1 probability, lowered where the class has changed since the previous exit",
        learns=("discount",),
        make_candidates=make_candidates,
    )
)

"""What to hold a policy against: single exits, the oracle, and the policy itself on all samples."""

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeexit.fitting import Evidence
from edgeexit.fitting.evidence import Indices, Values
from edgeexit.policies import AnyPolicy, exit_rates, exits_of, simulate


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Where each sample left, and what that came to."""

    exits: Indices
    """[N] the exit at which each sample leaves."""
    losses: Values
    """[N] in [0, 1]."""
    mean_cost: float

    @property
    def mean_loss(self) -> float:
        """Mean of `losses`."""
        return float(self.losses.mean())


def single_exits(evidence: Evidence) -> tuple[Outcome, ...]:
    """Return, for every exit, what answering there always comes to; the last is the whole model."""
    losses = evidence.losses(evidence.own_answers)
    return tuple(
        Outcome(exits=np.full(len(evidence), k), losses=losses[:, k], mean_cost=cost)
        for k, cost in enumerate(evidence.costs)
    )


def oracle(evidence: Evidence) -> Outcome:
    """Return what knowing the first right exit would come to, the final one standing in where none is right.

    To segment, the first exit whose map loses least.
    """
    losses = evidence.losses(evidence.own_answers)
    exits = losses.argmin(axis=1)
    exits[losses.min(axis=1) >= 1] = evidence.exits - 1
    return _outcome(exits, losses, evidence.costs)


def follow(policy: AnyPolicy, evidence: Evidence) -> Outcome:
    """Return what a policy does on evidence. Raises FittingError as `Evidence.at`."""
    seen = evidence.at(policy.temperatures)
    scores, answers = simulate(policy, seen.readouts)
    return _outcome(exits_of(scores, policy.thresholds), seen.losses(answers), evidence.costs)


def rates(outcome: Outcome, exits: int) -> tuple[float, ...]:
    """Return the share [exits] of samples that leave at each exit."""
    return exit_rates(outcome.exits, exits)


def _outcome(exits: Indices, losses: Values, costs: Sequence[float]) -> Outcome:
    return Outcome(
        exits=exits, losses=losses[np.arange(len(exits)), exits], mean_cost=float(np.asarray(costs)[exits].mean())
    )

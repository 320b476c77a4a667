"""What a policy does on samples whose every exit is known."""

import msgspec
import numpy as np

from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.fitting.thresholds import mean_cost
from edgeexit.policies import Policy, exit_rates, exits_of, simulate


class PolicyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Where each sample left, and what that came to."""

    exits: Indices
    """[N] the exit at which each sample leaves."""
    losses: Values
    """[N] in [0, 1]."""
    costs: Values
    """[K] cumulative cost of leaving at each exit."""

    @property
    def mean_loss(self) -> float:
        """Mean of `losses`."""
        return float(self.losses.mean())

    @property
    def spent(self) -> Values:
        """[N] cost of each sample."""
        return self.costs[self.exits]

    @property
    def mean_cost(self) -> float:
        """Mean cost of a sample."""
        return mean_cost(self.exits, self.costs)

    @property
    def rates(self) -> tuple[float, ...]:
        """[K] share of the samples that leave at each exit."""
        return exit_rates(self.exits, len(self.costs))


def follow(policy: Policy, dataset: ReadoutDataset) -> PolicyOutcome:
    """Return what a policy does on evidence, under its own temperatures. Raises FittingError as `ReadoutDataset.at`."""
    seen = dataset.at(policy.temperatures)
    scores, predictions = simulate(policy, seen.readouts)
    return outcome_of(exits_of(scores, policy.thresholds), seen.losses(predictions), dataset)


def outcome_of(exits: Indices, losses: Values, dataset: ReadoutDataset) -> PolicyOutcome:
    """Return what leaving at these exits [N] comes to, for losses [N, K] of answering at each exit."""
    taken = losses[np.arange(len(exits)), exits]
    return PolicyOutcome(exits=exits, losses=taken, costs=np.asarray(dataset.costs, dtype=np.float64))

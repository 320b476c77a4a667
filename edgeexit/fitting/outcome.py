"""The exits, losses and costs of a policy on a readout dataset."""

import msgspec
import numpy as np

from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.fitting.replay import replay
from edgeexit.fitting.thresholds import mean_cost
from edgeexit.policies import Policy, exit_rates, exits_of


class PolicyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The exit and the loss of each sample under a policy."""

    exits: Indices
    """[N] the exit at which each sample exits."""
    losses: Values
    """[N] in [0, 1]."""
    costs: Values
    """[K] cumulative cost of each exit."""

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
        """Mean cost per sample."""
        return mean_cost(self.exits, self.costs)

    @property
    def rates(self) -> tuple[float, ...]:
        """[K] fraction of the samples that exit at each exit."""
        return exit_rates(self.exits, len(self.costs))


def follow(policy: Policy, dataset: ReadoutDataset) -> PolicyOutcome:
    """Return the outcome of a policy on a dataset, which is converted to the temperatures of the policy.

    Raises FittingError as `ReadoutDataset.at`.
    """
    converted = dataset.at(policy.temperatures)
    scores, predictions = replay(policy, converted)
    return outcome_of(exits_of(scores, policy.thresholds), converted.losses(predictions), dataset)


def outcome_of(exits: Indices, losses: Values, dataset: ReadoutDataset) -> PolicyOutcome:
    """Return the outcome of samples that exit at `exits` [N], given their losses [N, K] at every exit."""
    taken = losses[np.arange(len(exits)), exits]
    return PolicyOutcome(exits=exits, losses=taken, costs=np.asarray(dataset.costs, dtype=np.float64))

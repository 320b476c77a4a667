"""The outcomes that a fit report compares: the fitted policy, each exit alone, the full model and the oracle."""

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.outcome import PolicyOutcome, follow, outcome_of
from edgeexit.policies import Policy


class ReportOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """The outcomes of a fitted policy, of each exit alone and of the oracle, on the same samples."""

    exits: tuple[str, ...]
    """Names [K] of the exits."""
    kind: str
    """Kind of the fitted policy."""
    fitted: PolicyOutcome
    single_exits: tuple[PolicyOutcome, ...]
    """[K] outcome k: every sample exits at exit k. The last one is the full model."""
    oracle: PolicyOutcome

    @property
    def full_model(self) -> PolicyOutcome:
        """The outcome if every sample exits at the final exit."""
        return self.single_exits[-1]


def report_outcomes(policy: Policy, exits: Sequence[str], dataset: ReadoutDataset) -> ReportOutcomes:
    """Return the outcomes of a policy, of each exit alone and of the oracle; `exits` [K] are the names of the exits."""
    return ReportOutcomes(
        exits=tuple(exits),
        kind=policy.kind,
        fitted=follow(policy, dataset),
        single_exits=single_exit_outcomes(dataset),
        oracle=oracle_outcome(dataset),
    )


def single_exit_outcomes(dataset: ReadoutDataset) -> tuple[PolicyOutcome, ...]:
    """Return one outcome [K] per exit, as if every sample exited there; the last one is the full model."""
    losses = dataset.losses(dataset.exit_predictions)
    return tuple(outcome_of(np.full(len(dataset), k), losses, dataset) for k in range(dataset.exits))


def oracle_outcome(dataset: ReadoutDataset) -> PolicyOutcome:
    """Return the outcome if every sample exits at its first correct exit, or at the final one if none is correct.

    Without labels, an exit is correct if it predicts the same as the final exit. For segmentation, a sample exits at
    the first exit with the smallest loss.
    """
    losses = dataset.losses(dataset.exit_predictions)
    exits = losses.argmin(axis=1)
    exits[losses.min(axis=1) >= 1] = dataset.exits - 1
    return outcome_of(exits, losses, dataset)

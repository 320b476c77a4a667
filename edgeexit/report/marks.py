"""What to hold a policy against: every exit alone, and the oracle."""

import numpy as np

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.outcome import PolicyOutcome, outcome_of


def single_exits(dataset: ReadoutDataset) -> tuple[PolicyOutcome, ...]:
    """Return, for every exit, what answering there always comes to; the last is the whole model."""
    losses = dataset.losses(dataset.exit_predictions)
    return tuple(outcome_of(np.full(len(dataset), k), losses, dataset) for k in range(dataset.exits))


def oracle(dataset: ReadoutDataset) -> PolicyOutcome:
    """Return what knowing the first right exit would come to, the final one standing in where none is right.

    To segment, the first exit whose map loses least.
    """
    losses = dataset.losses(dataset.exit_predictions)
    exits = losses.argmin(axis=1)
    exits[losses.min(axis=1) >= 1] = dataset.exits - 1
    return outcome_of(exits, losses, dataset)

"""What to hold a policy against: every exit alone, and the oracle."""

import numpy as np

from edgeexit.fitting import Evidence
from edgeexit.fitting.outcome import Outcome, outcome_of


def single_exits(evidence: Evidence) -> tuple[Outcome, ...]:
    """Return, for every exit, what answering there always comes to; the last is the whole model."""
    losses = evidence.losses(evidence.own_answers)
    return tuple(outcome_of(np.full(len(evidence), k), losses, evidence) for k in range(evidence.exits))


def oracle(evidence: Evidence) -> Outcome:
    """Return what knowing the first right exit would come to, the final one standing in where none is right.

    To segment, the first exit whose map loses least.
    """
    losses = evidence.losses(evidence.own_answers)
    exits = losses.argmin(axis=1)
    exits[losses.min(axis=1) >= 1] = evidence.exits - 1
    return outcome_of(exits, losses, evidence)

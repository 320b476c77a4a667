"""Chooses thresholds whose disagreement with the final exit is bounded, and certifies the bound.

The choosing samples give a path of thresholds from the safest to the cheapest. The certifying samples test them in
this order, and the tests stop at the first failure (fixed-sequence testing: Learn then Test, Angelopoulos et al. 2021;
for early exits Jazbec et al., NeurIPS 2024). The path does not depend on the certifying samples, so the bound holds for
any path. The path is greedy (see `frontier`): in experiments, a path with one threshold search per budget was no
cheaper.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.frontier import Thresholds, frontier
from edgeexit.fitting.goals import MaxRisk, require_goal
from edgeexit.fitting.readout_dataset import ReadoutDataset, Values
from edgeexit.fitting.replay import replay
from edgeexit.fitting.risk import betting_upper_bound, clean_samples_needed, upper_bound
from edgeexit.policies import Certificate, Policy, exit_rates, exits_of

_SEQUENCE = "learn-then-test, fixed sequence"


def samples_needed(risk: float, delta: float, *, fractions: bool = False) -> int:
    """Return the minimum number of samples, choosing and certifying, that can certify `risk` at level 1 - `delta`.

    It is 1.5 times the number of certifying samples that are needed if none has a loss; see `choosing_and_certifying`.
    `fractions`: losses are fractions in [0, 1] (segmentation), not 0 or 1. Raises FittingError for a risk or delta that
    is not between 0 and 1.
    """
    require_goal(MaxRisk(risk=risk, delta=delta))
    return (3 * clean_samples_needed(risk, delta, fractions=fractions) - 1) // 2


def require_samples(samples: int, goal: MaxRisk, *, fractions: bool = False) -> None:
    """Raise FittingError, with the number that is needed, if `samples` are too few to certify the goal."""
    needed = samples_needed(goal.risk, goal.delta, fractions=fractions)
    if samples < needed:
        raise FittingError(
            f"{samples} samples cannot certify a risk of {goal.risk:g} with probability {100 * (1 - goal.delta):g} %; "
            f"at least {needed} are needed: give more samples or allow a larger risk"
        )


class _PassedTest(NamedTuple):
    """Thresholds that passed their test, with the exits and losses [N] of the certifying samples under them."""

    thresholds: Thresholds
    exits: npt.NDArray[np.int64]
    losses: Values
    upper_bound: float


def certified_thresholds(
    candidate: Policy, choosing: ReadoutDataset, certifying: ReadoutDataset, goal: MaxRisk
) -> tuple[Thresholds, Certificate]:
    """Return the last thresholds of the path for `candidate` that pass their test, and their certificate.

    Raises FittingError if no thresholds pass.
    """
    costs = np.asarray(choosing.costs)
    scores, predictions = replay(candidate, choosing)
    path = frontier(scores, choosing.disagreement(predictions), costs)

    scores, predictions = replay(candidate, certifying)
    disagreement = certifying.disagreement(predictions)
    fractions = certifying.maps is not None
    best: _PassedTest | None = None
    for point in path:
        exits = exits_of(scores, point.thresholds)
        losses = disagreement[np.arange(len(exits)), exits]
        bound = _bound(losses, goal.delta, fractions=fractions)
        if bound > goal.risk:
            break
        best = _PassedTest(point.thresholds, exits, losses, bound)
    if best is None:  # cannot happen with enough samples: the path starts at full depth, which never disagrees
        raise FittingError(f"no policy of kind '{candidate.kind}' can be certified for a risk of {goal.risk:g}")
    return best.thresholds, Certificate(
        method=f"{_SEQUENCE}, {'betting' if fractions else 'Clopper-Pearson'}",
        samples=len(best.exits),
        risk=goal.risk,
        delta=goal.delta,
        observed=float(best.losses.mean()),
        upper_bound=best.upper_bound,
        exit_rates=exit_rates(best.exits, candidate.exits),
    )


def _bound(losses: Values, delta: float, *, fractions: bool) -> float:
    """Return the upper bound on the mean loss: by betting for fractions, Clopper-Pearson for losses of 0 or 1."""
    return betting_upper_bound(losses, delta) if fractions else upper_bound(int(losses.sum()), len(losses), delta)

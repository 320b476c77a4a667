"""The boldest thresholds along a path whose disagreement with the final exit is certified on other samples.

One half of the samples chooses a path of thresholds from safe to bold, the other certifies along it: fixed-sequence
tests (Learn then Test, Angelopoulos et al. 2021; for early exits Jazbec et al., NeurIPS 2024) that stop at the first
failure. The path does not depend on the certifying half, so the bound holds whatever the path. The greedy path is the
one that certifies the cheapest: solutions of the threshold search, budget by budget, came out as dear or dearer.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.evidence import Evidence, Indices, Values
from edgeexit.fitting.frontier import Thresholds, frontier
from edgeexit.fitting.goals import MaxRisk, require_goal
from edgeexit.fitting.risk import betting_upper_bound, clean_samples_needed, upper_bound
from edgeexit.policies import AnyPolicy, Certificate, exit_rates, exits_of, simulate

_SEQUENCE = "learn-then-test, fixed sequence"


def halves(samples: int, seed: int) -> tuple[Indices, Indices]:
    """Return the samples that choose and those that certify."""
    order = np.random.default_rng(seed).permutation(samples)
    return order[: samples // 2], order[samples // 2 :]


def samples_needed(risk: float, delta: float, *, shares: bool = False) -> int:
    """Return the least number of samples in all, both halves together, that can certify `risk` at 1 - `delta`.

    `shares`: of losses in [0, 1], to segment, not 0 or 1. Raises FittingError for a risk or delta that is not between 0
    and 1.
    """
    require_goal(MaxRisk(risk=risk, delta=delta))
    return 2 * clean_samples_needed(risk, delta, shares=shares)


def require_samples(samples: int, goal: MaxRisk, *, shares: bool = False) -> None:
    """Raise FittingError, with the number that is needed, where so few samples can certify nothing."""
    needed = samples_needed(goal.risk, goal.delta, shares=shares)
    if samples < needed:
        raise FittingError(
            f"{samples} samples cannot certify a risk of {goal.risk:g} at {1 - goal.delta:.0%} confidence; "
            f"at least {needed} are needed"
        )


class _Passed(NamedTuple):
    thresholds: Thresholds
    exits: npt.NDArray[np.int64]
    losses: Values
    upper_bound: float


def certified_thresholds(
    template: AnyPolicy, choosing: Evidence, certifying: Evidence, goal: MaxRisk
) -> tuple[Thresholds, Certificate]:
    """Return the boldest thresholds of `template` that pass, and the certificate. Raises FittingError: none does."""
    costs = np.asarray(choosing.costs)
    scores, answers = simulate(template, choosing.readouts)
    path = frontier(scores, choosing.disagreement(answers), costs)

    scores, answers = simulate(template, certifying.readouts)
    disagreement = certifying.disagreement(answers)
    shares = certifying.maps is not None
    best: _Passed | None = None
    for point in path:
        exits = exits_of(scores, point.thresholds)
        losses = disagreement[np.arange(len(exits)), exits]
        bound = _bound(losses, goal.delta, shares=shares)
        if bound > goal.risk:
            break
        best = _Passed(point.thresholds, exits, losses, bound)
    if best is None:  # the path starts at full depth, which never disagrees with itself
        raise FittingError(f"no policy of kind '{template.kind}' reaches a risk of {goal.risk:g}")
    return best.thresholds, Certificate(
        method=f"{_SEQUENCE}, {'betting' if shares else 'Clopper-Pearson'}",
        samples=len(best.exits),
        risk=goal.risk,
        delta=goal.delta,
        observed=float(best.losses.mean()),
        upper_bound=best.upper_bound,
        exit_rates=exit_rates(best.exits, template.exits),
    )


def _bound(losses: Values, delta: float, *, shares: bool) -> float:
    """Return the upper bound on the mean loss: by betting for shares, exact for losses of 0 or 1."""
    return betting_upper_bound(losses, delta) if shares else upper_bound(int(losses.sum()), len(losses), delta)

"""The boldest thresholds along a path whose disagreement with the final exit is certified on other samples.

One half of the samples chooses a path of thresholds from safe to bold, the other certifies along it: fixed-sequence
tests (Learn then Test, Angelopoulos et al. 2021; for early exits Jazbec et al., NeurIPS 2024) that stop at the first
failure. The path does not depend on the certifying half, so the bound holds whatever the path.
"""

import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.evidence import Evidence, Indices
from edgeexit.fitting.frontier import Thresholds, frontier
from edgeexit.fitting.goals import MaxRisk
from edgeexit.fitting.risk import clean_samples_needed, upper_bound
from edgeexit.policies import AnyPolicy, Certificate, exit_rates, exits_of, simulate

_METHOD = "learn-then-test, fixed sequence, Clopper-Pearson"


def halves(samples: int, seed: int) -> tuple[Indices, Indices]:
    """Return the samples that choose and those that certify."""
    order = np.random.default_rng(seed).permutation(samples)
    return order[: samples // 2], order[samples // 2 :]


def samples_needed(risk: float, delta: float) -> int:
    """Return the least number of samples in all, both halves together, that can certify `risk` at 1 - `delta`.

    Raises FittingError for a risk or delta that is not between 0 and 1.
    """
    for name, value in (("risk", risk), ("delta", delta)):
        if not 0 < value < 1:
            raise FittingError(f"{name} {value:g} must lie between 0 and 1, e.g. 0.05")
    return 2 * clean_samples_needed(risk, delta)


def require_samples(samples: int, goal: MaxRisk) -> None:
    """Raise FittingError, with the number that is needed, where so few samples can certify nothing."""
    needed = samples_needed(goal.risk, goal.delta)
    if samples < needed:
        raise FittingError(
            f"{samples} samples cannot certify a risk of {goal.risk:g} at {1 - goal.delta:.0%} confidence; "
            f"at least {needed} are needed"
        )


def certified_thresholds(
    template: AnyPolicy, choosing: Evidence, certifying: Evidence, goal: MaxRisk
) -> tuple[Thresholds, Certificate]:
    """Return the boldest thresholds of `template` that pass, and the certificate. Raises FittingError: none does."""
    costs = np.asarray(choosing.costs)
    scores, answers = simulate(template, choosing.readouts)
    path = frontier(scores, choosing.disagreement(answers), costs)

    scores, answers = simulate(template, certifying.readouts)
    losses = certifying.disagreement(answers)
    best: tuple[Thresholds, npt.NDArray[np.int64], int] | None = None
    for point in path:
        exits = exits_of(scores, point.thresholds)
        failures = int(losses[np.arange(len(exits)), exits].sum())
        if upper_bound(failures, len(exits), goal.delta) > goal.risk:
            break
        best = point.thresholds, exits, failures
    if best is None:  # the path starts at full depth, which never disagrees with itself
        raise FittingError(f"no policy of kind '{template.kind}' reaches a risk of {goal.risk:g}")
    thresholds, exits, failures = best
    return thresholds, Certificate(
        method=_METHOD,
        samples=len(exits),
        risk=goal.risk,
        delta=goal.delta,
        observed=failures / len(exits),
        upper_bound=upper_bound(failures, len(exits), goal.delta),
        exit_rates=exit_rates(exits, template.exits),
    )

"""Fit under a stated risk: the least cost whose disagreement with the final exit is certified.

One half of the samples chooses a path of thresholds from safe to bold, the other certifies along it: fixed-sequence
tests (Learn then Test, Angelopoulos et al. 2021; for early exits Jazbec et al., NeurIPS 2024) that stop at the first
failure. The path does not depend on the certifying half, so the bound holds whatever the path.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting.frontier import Thresholds, frontier
from edgeexit.fitting.risk import clean_samples_needed, upper_bound
from edgeexit.fitting.templates import Labels, make_template
from edgeexit.policies import AnyPolicy, Certificate, disagrees, exit_rates, exits_of, simulate_scores
from edgeexit.policies.readout import TOP1, Array

_METHOD = "learn-then-test, fixed sequence, Clopper-Pearson"


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted policy and what is known of it."""

    policy: AnyPolicy
    certificate: Certificate
    mean_cost: float
    """On the certifying samples, in the unit of the costs given."""


def samples_needed(risk: float, delta: float) -> int:
    """Return the least number of samples in all, both halves together, that can certify `risk` at 1 - `delta`."""
    _check_goal(risk, delta)
    return 2 * clean_samples_needed(risk, delta)


def fit_kind(
    kind: str, readouts: Array, labels: Labels, costs: Sequence[float], *, risk: float, delta: float, seed: int = 0
) -> Fit:
    """Return `fit_max_risk` of a new policy of a kind.

    What the kind itself takes from the data (BEEM's weights) comes from the half that does not certify, too. Labels
    are [N] or None; the rest, and what is raised, as in `fit_max_risk`; FittingError as well for an unknown kind.
    """
    _require_samples(len(readouts), risk, delta)
    choosing, _ = _halves(len(readouts), seed)
    template = make_template(kind, readouts[choosing], None if labels is None else labels[choosing])
    return fit_max_risk(template, readouts, costs, risk=risk, delta=delta, seed=seed)


def fit_max_risk(
    template: AnyPolicy,
    readouts: Array,
    costs: Sequence[float],
    *,
    risk: float,
    delta: float,
    seed: int = 0,
) -> Fit:
    """Return the cheapest policy found whose disagreement is at most `risk` with probability 1 - `delta`.

    Args:
        template: gives kind, temperatures and weights; its thresholds are replaced.
        readouts: [N, K, 4] of every exit, under the template's temperatures.
        costs: [K] cumulative cost of leaving at each exit, increasing.
        risk: bound on the share of answers that differ from the final exit's.
        delta: probability with which the bound may fail.
        seed: of the split into halves.

    Raises FittingError: readouts of the wrong shape or not finite, costs that do not increase, or too few samples.

    """
    cumulative = _check_inputs(template, readouts, costs)
    _require_samples(len(readouts), risk, delta)
    choosing, testing = _halves(len(readouts), seed)
    direction, certifying = readouts[choosing], readouts[testing]
    losses = (direction[:, :, TOP1] != direction[:, -1:, TOP1]).astype(np.float64)
    path = frontier(simulate_scores(template, direction), losses, cumulative)

    scores = simulate_scores(template, certifying)
    best: tuple[Thresholds, npt.NDArray[np.int64], int] | None = None
    for point in path:
        exits = exits_of(scores, point.thresholds)
        failures = int(disagrees(certifying, exits).sum())
        if upper_bound(failures, len(exits), delta) > risk:
            break
        best = point.thresholds, exits, failures
    if best is None:  # the path starts at full depth, which never disagrees with itself
        raise FittingError(f"no policy of kind '{template.kind}' reaches a risk of {risk:g}")
    thresholds, exits, failures = best
    certificate = Certificate(
        method=_METHOD,
        samples=len(exits),
        risk=risk,
        delta=delta,
        observed=failures / len(exits),
        upper_bound=upper_bound(failures, len(exits), delta),
        exit_rates=exit_rates(exits, template.exits),
    )
    policy = msgspec.structs.replace(template, thresholds=thresholds)
    return Fit(policy=policy, certificate=certificate, mean_cost=float(cumulative[exits].mean()))


def _halves(samples: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the samples that choose and those that certify."""
    order = np.random.default_rng(seed).permutation(samples)
    return order[: samples // 2], order[samples // 2 :]


def _require_samples(samples: int, risk: float, delta: float) -> None:
    needed = samples_needed(risk, delta)
    if samples < needed:
        raise FittingError(
            f"{samples} samples cannot certify a risk of {risk:g} at {1 - delta:.0%} confidence; "
            f"at least {needed} are needed"
        )


def _check_goal(risk: float, delta: float) -> None:
    for name, value in (("risk", risk), ("delta", delta)):
        if not 0 < value < 1:
            raise FittingError(f"{name} {value:g} must lie between 0 and 1, e.g. 0.05")


def _check_inputs(template: AnyPolicy, readouts: npt.NDArray[Any], costs: Sequence[float]) -> npt.NDArray[np.float64]:
    wanted = (template.exits, 4)
    if readouts.ndim != len(wanted) + 1 or readouts.shape[1:] != wanted:
        raise FittingError(f"readouts have shape {readouts.shape} where [N, {wanted[0]}, {wanted[1]}] is needed")
    bad = ~np.isfinite(readouts).all(axis=(0, 2))
    if bad.any():
        raise FittingError(f"readouts of exit {int(bad.argmax())} are not all finite; does the model give NaN?")
    cumulative = np.asarray(costs, dtype=np.float64)
    if cumulative.shape != (template.exits,) or not (np.diff(cumulative) > 0).all() or cumulative[0] <= 0:
        raise FittingError(f"costs {list(costs)} must be {template.exits} increasing figures, one an exit")
    return cumulative

"""Loss over cost for kinds of policies, cross-fitted: no sample is scored by thresholds that it chose."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.certify import halves
from edgeexit.fitting.frontier import Thresholds, frontier
from edgeexit.fitting.kinds import CandidateOptions, make_candidates
from edgeexit.fitting.readout_dataset import Values
from edgeexit.fitting.thresholds import within_budget
from edgeexit.policies import Policy, exits_of, simulate
from edgeexit.policies.readout import Array

_BUDGETS = 17
"""Mean costs, in geometric progression from the first exit's to the final one's, that a curve is fitted for."""
_LEARNED_BUDGETS = (0.2, 0.5, 0.8)
"""Where between those a kind is trained that learns for one budget."""
_MIN_SAMPLES = 20
_MAX_SAMPLES = 10_000
"""Of more, so many are drawn: the curves' noise is below a line's width by then, and the time grows with them."""
_ROUNDING = 1e-9
"""Share of a budget that sums of rounded costs may be off by."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind loses at each mean cost, on samples that did not choose its thresholds."""

    kind: str
    costs: Values
    """[P] realised mean cost, increasing."""
    losses: Values
    """[P] mean loss at it."""
    gain: Values
    """[B] loss of the baseline less this kind's at the same cost, at each of `Curves.budgets`; NaN: out of reach."""
    noise: Values
    """[B] standard error of `gain`, sample by sample; NaN likewise."""

    def loss_at(self, cost: float | Values) -> Values:
        """Return the loss at mean costs: between two points mixed, NaN below the cheapest point."""
        return np.asarray(np.interp(cost, self.costs, self.losses, left=np.nan), dtype=np.float64)

    @property
    def mean_gain(self) -> float:
        """Mean of `gain` over the costs that this kind and the baseline reach; -inf where there are none."""
        reached = self.gain[np.isfinite(self.gain)]
        return float(reached.mean()) if len(reached) else -np.inf


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """All kinds over the same samples and costs."""

    budgets: Values
    """[B] mean costs."""
    curves: tuple[Curve, ...]
    """The baseline first, then in the order of the kinds."""
    left_out: dict[str, str]
    """Kind -> why it has no curve."""
    samples: int
    """That the curves are over."""

    @property
    def baseline(self) -> str | None:
        """The kind that the others are compared with; None where no kind has a curve."""
        return self.curves[0].kind if self.curves else None


def cross_fit(
    kinds: Sequence[str],
    dataset: ReadoutDataset,
    *,
    temperatures: bool = True,
    weights: str | tuple[float, ...] = "accuracy",
    seed: int = 0,
    on_step: Callable[[int], None] = lambda _: None,
) -> Curves:
    """Return a curve a kind: for each of 17 budgets, fitted on one half of the samples and scored on the other.

    Both halves do both in turn (2-fold cross-fitting), so that a point's loss and cost are means over all samples, or
    over 10,000 of them. Thresholds are those that a fit takes; among a kind's candidate policies, one frontier path
    each tells which to take them for.

    Args:
        kinds: names of `edgeexit.policies.KINDS`, the simplest first; the first that can be fitted is the baseline.
        evidence: at temperature 1, with probabilities where kinds read them.
        temperatures: whether temperatures may be fitted.
        weights: BEEM's, as `fit_policy` takes them.
        seed: of the split into halves and of what is learned.
        on_step: told 1 after each kind.

    A kind that raises FittingError on this evidence is left out, with the reason.

    """
    budgets = np.geomspace(dataset.costs[0], dataset.costs[-1], _BUDGETS)
    if len(dataset) > _MAX_SAMPLES:
        dataset = dataset.take(np.random.default_rng(seed).permutation(len(dataset))[:_MAX_SAMPLES])
    curves: list[Curve] = []
    left_out: dict[str, str] = {}
    first: Values | None = None  # the baseline's losses [B, N]
    options = CandidateOptions(budget=dataset.costs[-1], temperatures=temperatures, weights=weights, seed=seed)
    for kind in kinds:
        try:
            costs, losses = _score(kind, dataset, budgets, options)
        except FittingError as error:
            left_out[kind] = str(error)
        else:
            first = losses if first is None else first
            curve = _curve(kind, costs, losses)
            curves.append(_compared(curve, curves[0] if curves else curve, budgets, losses - first))
        on_step(1)
    return Curves(budgets=budgets, curves=tuple(curves), left_out=left_out, samples=len(dataset))


def _score(kind: str, dataset: ReadoutDataset, budgets: Values, options: CandidateOptions) -> tuple[Values, Values]:
    """Return cost and loss [B, N] of every sample under the policy that the other half chose; NaN: out of reach."""
    if len(dataset) < _MIN_SAMPLES:
        raise FittingError(f"{len(dataset)} samples are too few to split into halves; give {_MIN_SAMPLES}")
    costs = np.full((len(budgets), len(dataset)), np.nan)
    losses = np.full((len(budgets), len(dataset)), np.nan)
    depths = np.asarray(dataset.costs)
    parts = halves(len(dataset), options.seed)
    for choosing, scoring in (parts, parts[::-1]):
        for candidate, chosen in _choose(kind, dataset.take(choosing), budgets, options):
            held_out = dataset.take(scoring).at(candidate.temperatures)
            scores, predictions = simulate(candidate, held_out.readouts)
            every = held_out.losses(predictions)
            for row, thresholds in chosen.items():
                exits = exits_of(scores, thresholds)
                costs[row, scoring] = depths[exits]
                losses[row, scoring] = every[np.arange(len(exits)), exits]
    return costs, losses


def _choose(
    kind: str, dataset: ReadoutDataset, budgets: Values, options: CandidateOptions
) -> Iterator[tuple[Policy, dict[int, Thresholds]]]:
    """Yield each candidate policy with the rows of the budgets that it is best for, and its thresholds for them."""
    candidates = _candidates(kind, dataset, budgets, options)
    costs, limits = np.asarray(dataset.costs), budgets * (1 + _ROUNDING)
    least = np.full((len(candidates), len(limits)), np.inf)
    for index, candidate in enumerate(candidates):
        scores, losses = _simulated(candidate, dataset)
        for point in frontier(scores, losses, costs):
            within = point.mean_cost <= limits
            least[index, within] = np.minimum(least[index, within], point.mean_loss)
    best = least.argmin(axis=0)  # the first, where several do as well
    reached = np.isfinite(least).any(axis=0)
    for index, candidate in enumerate(candidates):
        rows = np.flatnonzero((best == index) & reached).tolist()
        if rows:
            scores, losses = _simulated(candidate, dataset)
            yield candidate, {row: within_budget(scores, losses, costs, limits[row]).thresholds for row in rows}


def _simulated(candidate: Policy, dataset: ReadoutDataset) -> tuple[Array, Values]:
    """Return scores and losses [N, K] of a policy."""
    seen = dataset.at(candidate.temperatures)
    scores, predictions = simulate(candidate, seen.readouts)
    return scores, seen.losses(predictions)


def _candidates(kind: str, dataset: ReadoutDataset, budgets: Values, options: CandidateOptions) -> list[Policy]:
    """Return a kind's candidates, those for several budgets where what it learns depends on the budget."""
    least, most = float(budgets[0]), float(budgets[-1])
    candidates: list[Policy] = []
    for percent in _LEARNED_BUDGETS:
        budget = least + percent * (most - least)
        made = make_candidates(kind, dataset, msgspec.structs.replace(options, budget=budget))
        fresh = [candidate for candidate in made if candidate not in candidates]
        if not fresh:  # the same for another budget
            break
        candidates += fresh
    return candidates


def _curve(kind: str, costs: Values, losses: Values) -> Curve:
    """Return the curve of costs and losses [B, N]; not compared with anything yet."""
    mean_costs, mean_losses = costs.mean(axis=1), losses.mean(axis=1)
    reached = np.isfinite(mean_costs)
    distinct, inverse = np.unique(mean_costs[reached], return_inverse=True)
    at_cost = np.bincount(inverse, weights=mean_losses[reached]) / np.bincount(inverse)
    none = np.zeros(len(costs))
    return Curve(kind=kind, costs=distinct, losses=at_cost, gain=none, noise=none)


def _compared(curve: Curve, baseline: Curve, budgets: Values, differences: Values) -> Curve:
    """Return the curve with what it gains over the baseline; `differences` [B, N] of their losses, budget by budget."""
    return msgspec.structs.replace(
        curve,
        gain=baseline.loss_at(budgets) - curve.loss_at(budgets),
        noise=differences.std(axis=1, ddof=1) / np.sqrt(differences.shape[1]),
    )

"""Loss over cost for kinds of policies, cross-fitted: no sample is scored by thresholds that it chose."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting import Evidence
from edgeexit.fitting.certify import halves
from edgeexit.fitting.evidence import Values
from edgeexit.fitting.frontier import Thresholds, frontier
from edgeexit.fitting.templates import TemplateOptions, make_templates
from edgeexit.fitting.thresholds import within_budget
from edgeexit.policies import AnyPolicy, exits_of, simulate
from edgeexit.policies.readout import Array

_BUDGETS = 17
"""Mean costs, in geometric progression from the first exit's to the final one's, that a curve is fitted for."""
_LEARNED_BUDGETS = (0.2, 0.5, 0.8)
"""Where between those a kind is trained that learns for one budget."""
_FEWEST_SAMPLES = 20
_MOST_SAMPLES = 10_000
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
    evidence: Evidence,
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
    budgets = np.geomspace(evidence.costs[0], evidence.costs[-1], _BUDGETS)
    if len(evidence) > _MOST_SAMPLES:
        evidence = evidence.take(np.random.default_rng(seed).permutation(len(evidence))[:_MOST_SAMPLES])
    curves: list[Curve] = []
    left_out: dict[str, str] = {}
    first: Values | None = None  # the baseline's losses [B, N]
    options = TemplateOptions(budget=evidence.costs[-1], temperatures=temperatures, weights=weights, seed=seed)
    for kind in kinds:
        try:
            costs, losses = _score(kind, evidence, budgets, options)
        except FittingError as error:
            left_out[kind] = str(error)
        else:
            first = losses if first is None else first
            curve = _curve(kind, costs, losses)
            curves.append(_compared(curve, curves[0] if curves else curve, budgets, losses - first))
        on_step(1)
    return Curves(budgets=budgets, curves=tuple(curves), left_out=left_out, samples=len(evidence))


def _score(kind: str, evidence: Evidence, budgets: Values, options: TemplateOptions) -> tuple[Values, Values]:
    """Return cost and loss [B, N] of every sample under the policy that the other half chose; NaN: out of reach."""
    if len(evidence) < _FEWEST_SAMPLES:
        raise FittingError(f"{len(evidence)} samples are too few to split into halves; give {_FEWEST_SAMPLES}")
    costs = np.full((len(budgets), len(evidence)), np.nan)
    losses = np.full((len(budgets), len(evidence)), np.nan)
    depths = np.asarray(evidence.costs)
    parts = halves(len(evidence), options.seed)
    for choosing, scoring in (parts, parts[::-1]):
        for template, chosen in _choose(kind, evidence.take(choosing), budgets, options):
            held_out = evidence.take(scoring).at(template.temperatures)
            scores, answers = simulate(template, held_out.readouts)
            every = held_out.losses(answers)
            for row, thresholds in chosen.items():
                exits = exits_of(scores, thresholds)
                costs[row, scoring] = depths[exits]
                losses[row, scoring] = every[np.arange(len(exits)), exits]
    return costs, losses


def _choose(
    kind: str, evidence: Evidence, budgets: Values, options: TemplateOptions
) -> Iterator[tuple[AnyPolicy, dict[int, Thresholds]]]:
    """Yield each candidate policy with the rows of the budgets that it is best for, and its thresholds for them."""
    templates = _templates(kind, evidence, budgets, options)
    costs, limits = np.asarray(evidence.costs), budgets * (1 + _ROUNDING)
    least = np.full((len(templates), len(limits)), np.inf)
    for index, template in enumerate(templates):
        scores, losses = _simulated(template, evidence)
        for point in frontier(scores, losses, costs):
            within = point.mean_cost <= limits
            least[index, within] = np.minimum(least[index, within], point.mean_loss)
    best = least.argmin(axis=0)  # the first, where several do as well
    reached = np.isfinite(least).any(axis=0)
    for index, template in enumerate(templates):
        rows = np.flatnonzero((best == index) & reached).tolist()
        if rows:
            scores, losses = _simulated(template, evidence)
            yield template, {row: within_budget(scores, losses, costs, limits[row]).thresholds for row in rows}


def _simulated(template: AnyPolicy, evidence: Evidence) -> tuple[Array, Values]:
    """Return scores and losses [N, K] of a policy."""
    seen = evidence.at(template.temperatures)
    scores, answers = simulate(template, seen.readouts)
    return scores, seen.losses(answers)


def _templates(kind: str, evidence: Evidence, budgets: Values, options: TemplateOptions) -> list[AnyPolicy]:
    """Return a kind's candidates, those for several budgets where what it learns depends on the budget."""
    least, most = float(budgets[0]), float(budgets[-1])
    templates: list[AnyPolicy] = []
    for share in _LEARNED_BUDGETS:
        budget = least + share * (most - least)
        made = make_templates(kind, evidence, msgspec.structs.replace(options, budget=budget))
        fresh = [template for template in made if template not in templates]
        if not fresh:  # the same for another budget
            break
        templates += fresh
    return templates


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

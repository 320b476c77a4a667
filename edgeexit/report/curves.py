"""Loss over cost for kinds of policies, cross-fitted: no sample is scored by thresholds that it chose."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting import Evidence
from edgeexit.fitting.certify import halves
from edgeexit.fitting.evidence import Values
from edgeexit.fitting.frontier import Point, frontier
from edgeexit.fitting.templates import TemplateOptions, make_templates
from edgeexit.policies import AnyPolicy, exits_of, simulate

_BUDGETS = 41
"""Mean costs, evenly from the first exit's to the final one's, that a curve is fitted for."""
_LEARNED_BUDGETS = (0.2, 0.5, 0.8)
"""Where between those a kind is trained that learns for one budget."""
_FEWEST_SAMPLES = 20


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
    """[B] standard error of `gain`, sample by sample."""

    def loss_at(self, cost: float | Values) -> Values:
        """Return the loss at mean costs: between two points mixed, NaN below the cheapest point."""
        return np.asarray(np.interp(cost, self.costs, self.losses, left=np.nan), dtype=np.float64)

    @property
    def mean_gain(self) -> float:
        """Mean of `gain` over the costs that this kind and the baseline reach."""
        return float(np.nanmean(self.gain))


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """All kinds over the same samples and costs."""

    budgets: Values
    """[B] mean costs."""
    curves: tuple[Curve, ...]
    """The baseline first, then in the order of the kinds."""
    left_out: dict[str, str]
    """Kind -> why it has no curve."""

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
    """Return a curve a kind: for each of 41 budgets, fitted on one half of the samples and scored on the other.

    Both halves do both in turn (2-fold cross-fitting), so that a point's loss and cost are means over all samples.
    Within a half, thresholds come from one frontier path a candidate policy.

    Args:
        kinds: names of `edgeexit.policies.KINDS`, the simplest first; the first that can be fitted is the baseline.
        evidence: at temperature 1, with probabilities where kinds read them.
        temperatures: whether temperatures may be fitted.
        weights: BEEM's, as `fit_policy` takes them.
        seed: of the split into halves and of what is learned.
        on_step: told 1 after each kind.

    A kind that raises FittingError on this evidence is left out, with the reason.

    """
    budgets = np.linspace(evidence.costs[0], evidence.costs[-1], _BUDGETS)
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
    return Curves(budgets=budgets, curves=tuple(curves), left_out=left_out)


def _score(kind: str, evidence: Evidence, budgets: Values, options: TemplateOptions) -> tuple[Values, Values]:
    """Return cost and loss [B, N] of every sample under the policy that the other half chose for each budget."""
    if len(evidence) < _FEWEST_SAMPLES:
        raise FittingError(f"{len(evidence)} samples are too few to split into halves; give {_FEWEST_SAMPLES}")
    costs = np.empty((len(budgets), len(evidence)))
    losses = np.empty((len(budgets), len(evidence)))
    depths = np.asarray(evidence.costs)
    parts = halves(len(evidence), options.seed)
    for choosing, scoring in (parts, parts[::-1]):
        for template, rows, points in _choose(kind, evidence.take(choosing), budgets, options):
            held_out = evidence.take(scoring).at(template.temperatures)
            scores, answers = simulate(template, held_out.readouts)
            every = held_out.losses(answers)
            for row, point in zip(rows, points, strict=True):
                exits = exits_of(scores, point.thresholds)
                costs[row, scoring] = depths[exits]
                losses[row, scoring] = every[np.arange(len(exits)), exits]
    return costs, losses


def _choose(
    kind: str, evidence: Evidence, budgets: Values, options: TemplateOptions
) -> Iterator[tuple[AnyPolicy, list[int], list[Point]]]:
    """Yield each candidate policy that is best for some budgets, with their rows and its thresholds for them."""
    templates = _templates(kind, evidence, budgets, options)
    best: list[tuple[int, Point] | None] = [None] * len(budgets)
    for index, template in enumerate(templates):
        seen = evidence.at(template.temperatures)
        scores, answers = simulate(template, seen.readouts)
        path = frontier(scores, seen.losses(answers), np.asarray(evidence.costs))
        for row, budget in enumerate(budgets):
            within = [point for point in path if point.mean_cost <= budget + 1e-9 * evidence.costs[-1]]
            found = min(within, key=lambda point: (point.mean_loss, point.mean_cost), default=None)
            held = best[row]
            if found is not None and (held is None or found.mean_loss < held[1].mean_loss):
                best[row] = index, found
    chosen = [pair for pair in best if pair is not None]
    # A path that ends above the least budgets has its cheapest point stand in: the curve then starts there.
    cheapest = min(chosen, key=lambda pair: pair[1].mean_cost)
    filled = [cheapest if pair is None else pair for pair in best]
    for index, template in enumerate(templates):
        rows = [row for row, pair in enumerate(filled) if pair[0] == index]
        if rows:
            yield template, rows, [filled[row][1] for row in rows]


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
    distinct, inverse = np.unique(costs.mean(axis=1), return_inverse=True)
    at_cost = np.bincount(inverse, weights=losses.mean(axis=1)) / np.bincount(inverse)
    none = np.zeros(len(costs))
    return Curve(kind=kind, costs=distinct, losses=at_cost, gain=none, noise=none)


def _compared(curve: Curve, baseline: Curve, budgets: Values, differences: Values) -> Curve:
    """Return the curve with what it gains over the baseline; `differences` [B, N] of their losses, budget by budget."""
    return msgspec.structs.replace(
        curve,
        gain=baseline.loss_at(budgets) - curve.loss_at(budgets),
        noise=differences.std(axis=1, ddof=1) / np.sqrt(differences.shape[1]),
    )

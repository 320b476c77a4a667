"""Cross-fitted curves of loss over mean cost: no threshold is scored on samples that chose it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting import FitOptions, ReadoutDataset
from edgeexit.fitting.frontier import Thresholds, frontier
from edgeexit.fitting.kinds import make_candidates, require_fitting_kind
from edgeexit.fitting.options import DEFAULT_OPTIONS
from edgeexit.fitting.readout_dataset import Indices, Values
from edgeexit.fitting.replay import replay
from edgeexit.fitting.splits import halves
from edgeexit.fitting.thresholds import within_budget
from edgeexit.policies import Policy, exits_of
from edgeexit.policies.readout import Array
from edgeexit.progress import NO_PROGRESS, Progress

_BUDGETS = 17
"""Number of mean costs per curve, in geometric progression from the first exit's cost to the final exit's."""
_LEARNED_BUDGETS = (0.2, 0.5, 0.8)
"""Fractions of the way between these costs: a kind that learns for one budget is trained for these budgets."""
_MIN_SAMPLES = 20
_MAX_SAMPLES = 10_000
"""Larger datasets are subsampled: more samples make the curves slower, but not visibly more precise."""
_ROUNDING = 1e-9
"""Relative tolerance of a budget, for sums of rounded costs."""


class TradeoffCurve(msgspec.Struct, frozen=True, kw_only=True):
    """The loss of a kind of policy at each mean cost, on samples that did not choose its thresholds."""

    kind: str
    costs: Values
    """[P] mean cost, increasing."""
    losses: Values
    """[P] mean loss at each mean cost."""
    gain: Values
    """[B] loss of the baseline minus the loss of this kind, at each of `TradeoffCurves.budgets`; NaN: not reachable."""
    noise: Values
    """[B] standard error of `gain`, from differences per sample; NaN: not reachable."""

    def loss_at(self, cost: float | Values) -> Values:
        """Return the loss at mean costs: linear between two points, NaN below the cheapest point."""
        return np.asarray(np.interp(cost, self.costs, self.losses, left=np.nan), dtype=np.float64)

    @property
    def mean_gain(self) -> float:
        """Mean of `gain` over the costs that this kind and the baseline reach; -inf if there are none."""
        reached = self.gain[np.isfinite(self.gain)]
        return float(reached.mean()) if len(reached) else -np.inf


class TradeoffCurves(msgspec.Struct, frozen=True, kw_only=True):
    """The curves of all kinds, for the same samples and costs."""

    budgets: Values
    """[B] mean costs."""
    curves: tuple[TradeoffCurve, ...]
    """In the order of the kinds; the first one is the baseline."""
    left_out: dict[str, str]
    """Kind -> the reason why it has no curve."""
    samples: int
    """Number of samples of the curves."""

    @property
    def baseline(self) -> str | None:
        """The kind that the others are compared with; None if no kind has a curve."""
        return self.curves[0].kind if self.curves else None


def cross_fit(
    kinds: Sequence[str],
    dataset: ReadoutDataset,
    *,
    options: FitOptions = DEFAULT_OPTIONS,
    progress: Progress = NO_PROGRESS,
) -> TradeoffCurves:
    """Return one curve of loss over cost per kind, by 2-fold cross-fitting.

    For each of 17 budgets, thresholds are fitted on one half of the samples and scored on the other half, and vice
    versa. So the loss and the cost of a point are means over all samples, or over 10,000 of them in a larger dataset.
    Thresholds are fitted as in `fit_policy`. If a kind has several candidates, each budget uses the candidate with the
    lowest loss on the half that is fitted.

    Args:
        kinds: names in `FITTING_KINDS`, the simplest first; the first one that can be fitted is the baseline.
        dataset: as in `fit_policy`.
        options: as in `fit_policy`; its seed also splits the samples into halves.
        progress: advances by 1 per kind.

    A kind that raises FittingError has no curve; `left_out` has the reason.

    """
    budgets = np.geomspace(dataset.costs[0], dataset.costs[-1], _BUDGETS)
    if len(dataset) > _MAX_SAMPLES:
        dataset = dataset.take(np.random.default_rng(options.seed).permutation(len(dataset))[:_MAX_SAMPLES])
    folds = _folds(dataset, options)
    curves: list[TradeoffCurve] = []
    left_out: dict[str, str] = {}
    first: Values | None = None  # the baseline's losses [B, N]
    for kind in kinds:
        try:
            costs, losses = _cross_scores(kind, folds, budgets, options)
        except FittingError as error:
            left_out[kind] = str(error)
        else:
            first = losses if first is None else first
            curve = _curve(kind, costs, losses)
            curves.append(_with_gain(curve, curves[0] if curves else curve, budgets, losses - first))
        progress.advance(1, total=len(kinds))
    return TradeoffCurves(budgets=budgets, curves=tuple(curves), left_out=left_out, samples=len(dataset))


class _Half(NamedTuple):
    """Thresholds are fitted on one half and scored on the other. All kinds use the same objects."""

    fitting: ReadoutDataset
    scoring: ReadoutDataset
    samples: Indices
    """The indices of the scored samples."""


def _folds(dataset: ReadoutDataset, options: FitOptions) -> tuple[_Half, ...]:
    """Return the two ways to use the halves."""
    first, second = halves(len(dataset), options.seed)
    taken = dataset.take(first), dataset.take(second)
    return _Half(*taken, second), _Half(*taken[::-1], first)


def _cross_scores(kind: str, folds: Sequence[_Half], budgets: Values, options: FitOptions) -> tuple[Values, Values]:
    """Return cost and loss [B, N] of each sample under the policy fitted on the other half; NaN: not reachable."""
    total = sum(len(fold.samples) for fold in folds)
    if total < _MIN_SAMPLES:
        raise FittingError(f"{total} samples are too few for a curve; at least {_MIN_SAMPLES} are needed")
    costs = np.full((len(budgets), total), np.nan)
    losses = np.full((len(budgets), total), np.nan)
    depths = np.asarray(folds[0].fitting.costs)
    for fitting, scored, scoring in folds:
        for candidate, thresholds_by_row in _best_candidates(kind, fitting, budgets, options):
            held_out = scored.at(candidate.temperatures)
            scores, predictions = replay(candidate, held_out)
            exit_losses = held_out.losses(predictions)
            for row, thresholds in thresholds_by_row.items():
                exits = exits_of(scores, thresholds)
                costs[row, scoring] = depths[exits]
                losses[row, scoring] = exit_losses[np.arange(len(exits)), exits]
    return costs, losses


def _best_candidates(
    kind: str, dataset: ReadoutDataset, budgets: Values, options: FitOptions
) -> Iterator[tuple[Policy, dict[int, Thresholds]]]:
    """Yield each candidate that is best for at least one budget, with a dict: index of the budget -> thresholds."""
    candidates = _candidates(kind, dataset, budgets, options)
    costs, limits = np.asarray(dataset.costs), budgets * (1 + _ROUNDING)
    lowest = np.full((len(candidates), len(limits)), np.inf)
    for index, candidate in enumerate(candidates):
        scores, losses = _scores_and_losses(candidate, dataset)
        for point in frontier(scores, losses, costs):
            within = point.mean_cost <= limits
            lowest[index, within] = np.minimum(lowest[index, within], point.mean_loss)
    best = lowest.argmin(axis=0)  # the first one, if several have the same loss
    reached = np.isfinite(lowest).any(axis=0)
    for index, candidate in enumerate(candidates):
        rows = np.flatnonzero((best == index) & reached).tolist()
        if rows:
            scores, losses = _scores_and_losses(candidate, dataset)
            yield candidate, {row: within_budget(scores, losses, costs, limits[row]).thresholds for row in rows}


def _scores_and_losses(candidate: Policy, dataset: ReadoutDataset) -> tuple[Array, Values]:
    """Return the scores and the losses [N, K] of a policy on a dataset."""
    calibrated = dataset.at(candidate.temperatures)
    scores, predictions = replay(candidate, calibrated)
    return scores, calibrated.losses(predictions)


def _candidates(kind: str, dataset: ReadoutDataset, budgets: Values, options: FitOptions) -> list[Policy]:
    """Return the candidates of a kind; if the kind learns for a budget, those of several budgets."""
    min_budget, max_budget = float(budgets[0]), float(budgets[-1])
    candidates: list[Policy] = []
    budget_matters = require_fitting_kind(kind).learns_for_budget
    for fraction in _LEARNED_BUDGETS if budget_matters else _LEARNED_BUDGETS[:1]:
        budget = min_budget + fraction * (max_budget - min_budget)
        fitted = make_candidates(kind, dataset, options.for_budget(budget))
        candidates += [candidate for candidate in fitted if candidate not in candidates]
    return candidates


def _curve(kind: str, costs: Values, losses: Values) -> TradeoffCurve:
    """Return the curve of costs and losses [B, N]; its `gain` and `noise` are not computed yet."""
    mean_costs, mean_losses = costs.mean(axis=1), losses.mean(axis=1)
    reached = np.isfinite(mean_costs)
    distinct, inverse = np.unique(mean_costs[reached], return_inverse=True)
    at_cost = np.bincount(inverse, weights=mean_losses[reached]) / np.bincount(inverse)
    none = np.zeros(len(costs))
    return TradeoffCurve(kind=kind, costs=distinct, losses=at_cost, gain=none, noise=none)


def _with_gain(curve: TradeoffCurve, baseline: TradeoffCurve, budgets: Values, differences: Values) -> TradeoffCurve:
    """Return the curve with `gain` and `noise`; `differences` [B, N] are its losses minus the baseline's."""
    return msgspec.structs.replace(
        curve,
        gain=baseline.loss_at(budgets) - curve.loss_at(budgets),
        noise=differences.std(axis=1, ddof=1) / np.sqrt(differences.shape[1]),
    )

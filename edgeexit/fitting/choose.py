"""`--policy auto`: fits every kind, compares them at the same mean cost on held-out folds, and takes the best."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.certify import require_samples
from edgeexit.fitting.fit import BASELINE, cost_of_goal, fit_checked, fit_policy
from edgeexit.fitting.goals import Budget, Fit, Goal, MaxRisk
from edgeexit.fitting.kinds import FITTING_KINDS, require_fitting_kind
from edgeexit.fitting.options import DEFAULT_OPTIONS, FitOptions
from edgeexit.fitting.outcome import follow
from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values
from edgeexit.fitting.soundness import require_sound
from edgeexit.fitting.splits import choosing_and_certifying
from edgeexit.fitting.temperature import base_variant
from edgeexit.progress import NO_PROGRESS, Progress

_MAX_STANDARD_ERRORS = 1.645
"""Standard errors by which a kind may be worse than the best and still count as equal: the normal quantile of 95 %."""
_SLOPE_RANGE = 0.1
"""Fraction of the common cost, to either side, over which the slope of loss against cost is measured."""


class KindComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one kind in the comparison, over the held-out samples of all folds."""

    kind: str
    mean_loss: float | None = None
    """Fraction of wrong predictions, corrected to the common cost; under a risk or without labels, fraction of
    predictions that differ from the final exit's. None if the kind cannot be fitted."""
    mean_cost: float | None = None
    """Mean cost on the held-out samples. It can differ from the common cost."""
    behind: float | None = None
    """Mean loss minus the mean loss of the best kind."""
    standard_error: float | None = None
    """Standard error of `behind`, from the differences per sample."""
    chosen: bool = False
    failure: str | None = None
    """Why the kind cannot be fitted."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `choose_policy`."""

    fit: Fit
    cost: float
    """The mean cost at which the kinds were compared."""
    folds: int
    samples: int
    """Number of samples in the comparison; under a risk, the choosing samples only."""
    comparisons: tuple[KindComparison, ...]
    """The simplest kind first."""


def choose_policy(
    dataset: ReadoutDataset,
    goal: Goal,
    *,
    kinds: Sequence[str] | None = None,
    options: FitOptions = DEFAULT_OPTIONS,
    progress: Progress = NO_PROGRESS,
) -> Choice:
    """Return the best kind's fit for a goal, and the comparison of the kinds.

    The common cost is the mean cost at which `BASELINE` reaches the goal. Each kind is fitted on all folds but one,
    with the common cost as its budget, and evaluated on the remaining fold. Its mean cost there differs slightly from
    the budget, so its losses are corrected to the common cost by the slope of loss against cost that `BASELINE` has
    there.

    The best kind has the lowest mean loss. With many kinds, one is ahead by chance, so the simplest kind that is not
    significantly worse is taken, as in the one-standard-error rule of Breiman et al. (Classification and Regression
    Trees, 1984). Here the test is one-sided at 5 %, on the differences per sample. Under a risk, the certifying samples
    are not used in the comparison.

    Args:
        dataset: as in `fit_policy`.
        goal: as in `fit_policy`.
        kinds: names in `FITTING_KINDS` to compare, the simplest first; None: all.
        options: as in `fit_policy`, and the number of folds.
        progress: receives a step per kind, which advances with each fold, and a step for the final fit.

    Raises FittingError as `fit_policy`, for options that a kind cannot use, and if no kind can be fitted.

    """
    names = tuple(FITTING_KINDS) if kinds is None else tuple(kinds)
    if not names:
        raise FittingError(f"no kinds are given to compare; name some of {', '.join(FITTING_KINDS)}")
    compared = _require_comparison(dataset, goal, options)
    for name in names:
        require_fitting_kind(name).require_options(compared, options)
    cost = cost_of_goal(compared, goal, options)
    slope = _loss_per_cost(compared, cost, options)
    folds = [
        _Fold(base_variant(compared.take(choosing), fit=options.temperatures), compared.take(held_out), held_out)
        for choosing, held_out in _splits(len(compared), options.folds, options.seed)
    ]
    outcomes: dict[str, Values | str] = {}
    costs: dict[str, float] = {}
    for name in names:
        progress.step(name)
        try:
            losses, spent = _cross_validated(name, folds, Budget(cost=cost), options, progress)
        except FittingError as error:
            outcomes[name] = str(error)
        else:
            # Kinds with few distinct scores can spend much less than the budget. The slope is known only near the
            # budget, so the correction is limited to that range.
            beyond = float(spent.mean() - np.clip(spent.mean(), cost * (1 - _SLOPE_RANGE), cost * (1 + _SLOPE_RANGE)))
            outcomes[name], costs[name] = losses + slope * (spent - cost - beyond), float(spent.mean())
    comparisons = _compare(outcomes, costs)
    best = next(comparison.kind for comparison in comparisons if comparison.chosen)
    progress.step(f"{best}, on all samples")
    fit = fit_policy(best, dataset, goal, options)
    return Choice(fit=fit, cost=cost, folds=options.folds, samples=len(compared), comparisons=comparisons)


def _require_comparison(dataset: ReadoutDataset, goal: Goal, options: FitOptions) -> ReadoutDataset:
    """Return the samples that the kinds are compared on. Raises FittingError for too few."""
    require_sound(dataset)
    if options.folds < 2:  # noqa: PLR2004 - one fold chooses, one is held out
        raise FittingError(f"folds {options.folds} must be at least 2: policies are compared on held-out folds")
    compared = dataset
    if isinstance(goal, MaxRisk):
        require_samples(len(dataset), goal, fractions=dataset.maps is not None)
        compared = dataset.take(choosing_and_certifying(len(dataset), options.seed)[0]).without_labels()
    if len(compared) < options.folds:
        raise FittingError(
            f"{len(compared)} samples are too few to compare policies in {options.folds} folds; give more samples, or "
            "name a kind of policy"
        )
    return compared


class _Fold(NamedTuple):
    """One split of the samples. All kinds use the same objects, so that temperatures are fitted once per fold."""

    choosing: ReadoutDataset
    held_out: ReadoutDataset
    samples: Indices
    """The indices of the samples that are held out."""


def _cross_validated(
    kind: str, folds: Sequence[_Fold], budget: Budget, options: FitOptions, progress: Progress
) -> tuple[Values, Values]:
    """Return the loss and the cost [N] of each sample under the policy that was fitted on the other folds."""
    total = sum(len(fold.samples) for fold in folds)
    losses, spent = np.empty(total), np.empty(total)
    for fold in folds:
        fit = fit_checked(kind, fold.choosing, budget, options)
        outcome = follow(fit.policy, fold.held_out)
        losses[fold.samples], spent[fold.samples] = outcome.losses, outcome.spent
        progress.advance(1, total=len(folds))
    return losses, spent


def _compare(outcomes: Mapping[str, Values | str], costs: Mapping[str, float]) -> tuple[KindComparison, ...]:
    """Return the comparisons in the order of the kinds, one of them chosen.

    An outcome is the corrected losses [N] of a kind, or the reason why it cannot be fitted. Raises FittingError if no
    kind can be fitted.
    """
    losses = {kind: outcome for kind, outcome in outcomes.items() if not isinstance(outcome, str)}
    if not losses:
        raise FittingError(f"no kind of policy can be fitted; {next(iter(outcomes))}: {next(iter(outcomes.values()))}")
    best = min(losses, key=lambda kind: float(losses[kind].mean()))
    comparisons, chosen = [], False
    for kind, outcome in outcomes.items():
        if isinstance(outcome, str):
            comparisons.append(KindComparison(kind=kind, failure=outcome))
            continue
        differences = outcome - losses[best]
        behind, error = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))
        is_chosen = not chosen and behind <= _MAX_STANDARD_ERRORS * error
        chosen |= is_chosen
        comparisons.append(
            KindComparison(
                kind=kind,
                mean_loss=max(float(outcome.mean()), 0.0),  # the correction to the common cost can go below 0
                mean_cost=costs[kind],
                behind=behind,
                standard_error=error,
                chosen=is_chosen,
            )
        )
    return tuple(comparisons)


def _loss_per_cost(dataset: ReadoutDataset, cost: float, options: FitOptions) -> float:
    """Return the decrease of the mean loss of `BASELINE` per unit of mean cost near `cost`, at least 0."""
    first, full = dataset.costs[0], dataset.costs[-1]
    plain, as_it_is = base_variant(dataset, fit=options.temperatures), FitOptions(temperatures=False)
    around = [min(max(cost * (1 + side * _SLOPE_RANGE), first), full) for side in (-1, 1)]
    cheaper, costlier = (fit_checked(BASELINE, plain, Budget(cost=c), as_it_is).expected for c in around)
    if costlier.mean_cost <= cheaper.mean_cost:
        return 0.0
    return max((cheaper.mean_loss - costlier.mean_loss) / (costlier.mean_cost - cheaper.mean_cost), 0.0)


def _splits(samples: int, folds: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
    """Yield, for each fold, the indices of the choosing samples and of the fold itself."""
    parts = np.array_split(np.random.default_rng(seed).permutation(samples), folds)
    for fold, part in enumerate(parts):
        yield np.concatenate([other for k, other in enumerate(parts) if k != fold]), part

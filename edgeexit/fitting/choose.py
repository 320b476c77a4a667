"""`--policy auto`: fit every kind, compare them at the same cost on samples that did not choose, take the best."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from edgeexit.errors import FittingError
from edgeexit.fitting.certify import halves, require_samples
from edgeexit.fitting.fit import fit_checked, fit_policy, meant_cost
from edgeexit.fitting.goals import Budget, Fit, Goal, MaxRisk
from edgeexit.fitting.kinds.beem import beem_weights
from edgeexit.fitting.outcome import follow
from edgeexit.fitting.readout_dataset import Indices, ReadoutDataset, Values, require_sound
from edgeexit.policies import KINDS

FOLDS = 5
"""Of the cross-validation, unless said otherwise."""
_CHANCE = 1.645
"""Standard errors that one kind may be behind the best and still be as good: the normal quantile of 95 %."""
_AROUND = 0.1
"""Share of the budget, to either side, over which the price of loss in cost is taken."""


class KindComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of policy in the comparison; figures are over the samples that were left out of its fit, fold by fold."""

    kind: str
    mean_loss: float | None = None
    """Share of wrong answers (of those that are not the final exit's, under a risk or without labels), at the cost
    that all are compared at. None: it could not be fitted."""
    mean_cost: float | None = None
    """Realised, before the loss is taken to the common cost."""
    behind: float | None = None
    """Mean loss above the best one's, sample by sample."""
    standard_error: float | None = None
    """Of `behind`."""
    chosen: bool = False
    failure: str | None = None
    """Why it could not be fitted."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What `auto` came to."""

    fit: Fit
    cost: float
    """The mean cost at which the kinds were compared."""
    folds: int
    samples: int
    """That compared; under a risk only those of the half that chooses."""
    comparisons: tuple[KindComparison, ...]
    """The simplest kind first."""


def choose_policy(
    dataset: ReadoutDataset,
    goal: Goal,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    folds: int = FOLDS,
    temperatures: bool = True,
    weights: str | tuple[float, ...] = "accuracy",
    seed: int = 0,
    on_fit: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Return the best kind's fit for a goal, and how the kinds compared.

    All are fitted for one budget, what the goal costs confidence, on all folds but one, and scored on that one. Since a
    budget is met only on average, each loss is taken to the common cost at the price that confidence pays around it.
    The best is the one of least loss; the simplest that is not worse by more than chance is taken, as in the
    one-standard-error rule of Breiman et al. (Classification and Regression Trees, 1984), here at a one-sided level of
    5 %, sample by sample, since one of many kinds is ahead by chance. Under a risk, the half that certifies has no part
    in this.

    Args:
        evidence: as in `fit_policy`.
        goal: as in `fit_policy`.
        kinds: to compare, the simplest first.
        folds: of the cross-validation, at least 2.
        temperatures: as in `fit_policy`.
        weights: BEEM's, as in `fit_policy`.
        seed: of folds and fits.
        on_fit: told the kind before each of the `len(kinds) * folds + 1` fits.

    Raises FittingError as `fit_policy`, for weights that no BEEM can have, and where no kind can be fitted.

    """
    require_sound(dataset)
    compared = dataset
    if isinstance(goal, MaxRisk):
        require_samples(len(dataset), goal, fractions=dataset.maps is not None)
        compared = dataset.take(halves(len(dataset), seed)[0]).without_labels()
    if len(compared) < folds:
        raise FittingError(f"{len(compared)} samples are too few to compare policies on; give more or name a --policy")
    if "beem" in kinds:
        beem_weights(compared, weights)  # refuses those that no BEEM can have
    cost = meant_cost(compared, goal)
    budget = Budget(cost=cost)
    price = _price(compared, cost)
    outcomes: dict[str, Values | str] = {}
    costs: dict[str, float] = {}
    for kind in kinds:
        losses, spent = np.empty(len(compared)), np.empty(len(compared))
        try:
            for choosing, scoring in _splits(len(compared), folds, seed):
                on_fit(kind)
                fit = fit_checked(
                    kind, compared.take(choosing), budget, temperatures=temperatures, weights=weights, seed=seed
                )
                outcome = follow(fit.policy, compared.take(scoring))
                losses[scoring], spent[scoring] = outcome.losses, outcome.spent
        except FittingError as error:
            outcomes[kind] = str(error)
        else:
            # A budget that discrete scores leave unspent earns no more than what the price is known for.
            beyond = float(spent.mean() - np.clip(spent.mean(), cost * (1 - _AROUND), cost * (1 + _AROUND)))
            outcomes[kind], costs[kind] = losses + price * (spent - cost - beyond), float(spent.mean())
    comparisons = _compare(outcomes, costs)
    best = next(comparison.kind for comparison in comparisons if comparison.chosen)
    on_fit(best)
    fit = fit_policy(best, dataset, goal, temperatures=temperatures, weights=weights, seed=seed)
    return Choice(fit=fit, cost=cost, folds=folds, samples=len(compared), comparisons=comparisons)


def _compare(outcomes: dict[str, Values | str], costs: dict[str, float]) -> tuple[KindComparison, ...]:
    """Return the candidates in their order, one of them chosen; an outcome is losses [N] or why there are none."""
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
        takes = not chosen and behind <= _CHANCE * error
        chosen |= takes
        comparisons.append(
            KindComparison(
                kind=kind,
                mean_loss=max(float(outcome.mean()), 0.0),  # less has no meaning: it spent less than the common cost
                mean_cost=costs[kind],
                behind=behind,
                standard_error=error,
                chosen=takes,
            )
        )
    return tuple(comparisons)


def _price(dataset: ReadoutDataset, cost: float) -> float:
    """Return the loss that one more unit of mean cost saves confidence around `cost`, at least 0."""
    lowest, highest = dataset.costs[0], dataset.costs[-1]
    around = [min(max(cost * (1 + side * _AROUND), lowest), highest) for side in (-1, 1)]
    less, more = (fit_policy("confidence", dataset, Budget(cost=c), temperatures=False).expected for c in around)
    if more.mean_cost <= less.mean_cost:
        return 0.0
    return max((less.mean_loss - more.mean_loss) / (more.mean_cost - less.mean_cost), 0.0)


def _splits(samples: int, folds: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
    """Yield, for each fold, the samples that choose and those that are left out."""
    parts = np.array_split(np.random.default_rng(seed).permutation(samples), folds)
    for left_out, part in enumerate(parts):
        yield np.concatenate([other for k, other in enumerate(parts) if k != left_out]), part

"""The options of a fit besides its goal."""

from typing import Final

import msgspec


class FitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a fit. They are the same for all kinds; a kind ignores those that it does not use."""

    temperatures: bool = True
    """Whether a softmax temperature may be fitted to each exit. If False, the temperatures of the dataset are used."""
    weights: str | tuple[float, ...] | None = None
    """Weights of the exits, for kinds that have them: a name in `FittingKind.weights`, or [K] numbers above 0.
    None: the first name."""
    seed: int = 0
    """Seed of the random splits of the samples, and of the training of learned scores."""
    folds: int = 5
    """Number of folds of the cross-validation in `choose_policy`, at least 2."""

    def for_budget(self, budget: float) -> "CandidateOptions":
        """Return the options of candidates for a mean cost of `budget`, in the unit of the costs."""
        return CandidateOptions(
            temperatures=self.temperatures, weights=self.weights, seed=self.seed, folds=self.folds, budget=budget
        )


class CandidateOptions(FitOptions, frozen=True, kw_only=True):
    """The options of a fit, and the mean cost that the candidates of a kind are made for."""

    budget: float
    """Mean cost, in the unit of the costs. Only kinds with `FittingKind.learns_for_budget` depend on it."""


DEFAULT_OPTIONS: Final = FitOptions()

"""Compares the accuracy of policies at equal budgets, fitted on one half of the samples and scored on the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.errors import FittingError
from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.outcome import follow
from edgeexit.policies import Policy
from edgeexit.policies.readout import TOP1

Fitter = Callable[[ReadoutDataset, float], Policy]
"""Readout dataset and budget -> policy. Raises FittingError if it cannot reach the budget."""
_Values = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]


class Outcome(NamedTuple):
    """Results of one fitter at one budget for every sample, averaged over the splits that scored it."""

    correct: _Values
    """[N] fraction of correct predictions."""
    cost: _Values
    """[N] mean cost."""
    kinds: Mapping[str, int]
    """Kind of policy -> number of splits in which it was fitted."""


class Difference(NamedTuple):
    """Mean of the per-sample differences in accuracy, and its standard error over the samples."""

    mean: float
    standard_error: float


def compare(
    dataset: ReadoutDataset,
    fitters: Mapping[str, Fitter],
    budgets: Sequence[float],
    *,
    splits: int,
    pool: ProcessPoolExecutor,
    on_done: Callable[[int, int], None],
) -> dict[str, dict[float, Outcome | None]]:
    """Return name -> budget -> outcome; None if the budget could not be reached on one of the halves.

    The samples are halved at random `splits` / 2 times, and each half serves once to fit and once to score, so that
    every sample is scored `splits` / 2 times and never by a policy that was fitted on it. `on_done` receives the
    number of finished budgets and splits, and their total number.
    """
    sums = {name: {budget: np.zeros((2, len(dataset))) for budget in budgets} for name in fitters}
    kinds: dict[str, dict[float, list[str]]] = {name: {budget: [] for budget in budgets} for name in fitters}
    jobs = [
        (budget, scored, pool.submit(_score_all, dataset, fitters, budget, fitted, scored))
        for fitted, scored in _halvings(len(dataset), splits)
        for budget in budgets
    ]
    for done, (budget, scored, job) in enumerate(jobs, start=1):
        for name, (kind, scores) in job.result().items():
            sums[name][budget][:, scored] += scores
            kinds[name][budget].append(kind)
        on_done(done, len(jobs))
    return {
        name: {budget: _outcome(sums[name][budget] * 2 / splits, kinds[name][budget], splits) for budget in budgets}
        for name in fitters
    }


def single_exits(dataset: ReadoutDataset) -> list[Outcome]:
    """Return the outcome of using one exit for all samples, for each exit."""
    correct = np.asarray(dataset.readouts[:, :, TOP1] == dataset.truth[:, None], dtype=np.float64)
    return [Outcome(correct[:, k], np.full(len(correct), cost), {}) for k, cost in enumerate(dataset.costs)]


def difference(one: Outcome, other: Outcome) -> Difference:
    """Return how much more accurate `one` is than `other`, regardless of their costs."""
    return _difference(one.correct - other.correct)


def difference_at_its_cost(curve: Sequence[Outcome], other: Outcome) -> Difference:
    """Return how much more accurate a fitter is than `other` at the mean cost of `other`.

    `curve` holds the outcomes of the fitter at several budgets. Between two of them it is interpolated linearly, which
    equals a random choice between the two policies per sample. Beyond the most expensive one it is constant.
    """
    by_cost = {float(point.cost.mean()): point for point in curve}
    costs = sorted(by_cost)
    cost = float(other.cost.mean())
    above = int(np.clip(np.searchsorted(costs, cost), 1, len(costs) - 1))
    fraction = float(np.clip((cost - costs[above - 1]) / (costs[above] - costs[above - 1]), 0, 1))
    ours = (1 - fraction) * by_cost[costs[above - 1]].correct + fraction * by_cost[costs[above]].correct
    return _difference(ours - other.correct)


def _score_all(
    dataset: ReadoutDataset, fitters: Mapping[str, Fitter], budget: float, fitted: _Indices, scored: _Indices
) -> dict[str, tuple[str, _Values]]:
    """Return name -> kind, and correctness and cost [2, n], for the fitters that reached the budget."""
    fitting, scoring = dataset.take(fitted), dataset.take(scored)
    results = {}
    for name, fit in fitters.items():
        try:
            policy = fit(fitting, budget)
        except FittingError:
            continue
        outcome = follow(policy, scoring)
        results[name] = policy.kind, np.stack([1 - outcome.losses, outcome.spent])
    return results


def _halvings(samples: int, splits: int) -> Iterator[tuple[_Indices, _Indices]]:
    for seed in range(splits // 2):
        order = np.random.default_rng(seed).permutation(samples)
        one, other = order[: samples // 2], order[samples // 2 :]
        yield one, other
        yield other, one


def _outcome(means: _Values, kinds: Sequence[str], splits: int) -> Outcome | None:
    if len(kinds) < splits:
        return None
    return Outcome(means[0], means[1], {kind: kinds.count(kind) for kind in sorted(set(kinds))})


def _difference(by_sample: _Values) -> Difference:
    return Difference(float(by_sample.mean()), float(by_sample.std(ddof=1) / np.sqrt(len(by_sample))))

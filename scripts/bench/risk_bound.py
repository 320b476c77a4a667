"""Measures how often a certified risk holds, with fits on samples from a population whose true risk is known."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from edgeexit.fitting import FitOptions, MaxRisk, ReadoutDataset, expect, fit_policy

DELTA = 0.1


class RiskOutcome(NamedTuple):
    """The results of many fits under one risk."""

    kind: str
    samples: int
    risk: float
    resamplings: int
    fraction: float
    """Fraction of fits whose disagreement on the population is at most the risk; the certificate promises 1 - delta."""
    disagreement: float
    """Mean over the fits."""
    mean_cost: float
    """Mean over the fits, on the population."""


def resample(
    population: ReadoutDataset, kind: str, samples: int, risk: float, *, resamplings: int, pool: ProcessPoolExecutor
) -> RiskOutcome:
    """Fit a kind on `samples` drawn with replacement, `resamplings` times, and measure each fit on the population.

    Samples are drawn from the population, so the disagreement on it is the true risk.
    """
    fits = np.array(
        list(pool.map(partial(_fit_once, population, kind, samples, risk), range(resamplings), chunksize=10))
    )
    return RiskOutcome(
        kind=kind,
        samples=samples,
        risk=risk,
        resamplings=resamplings,
        fraction=float((fits[:, 0] <= risk).mean()),
        disagreement=float(fits[:, 0].mean()),
        mean_cost=float(fits[:, 1].mean()),
    )


def _fit_once(population: ReadoutDataset, kind: str, samples: int, risk: float, seed: int) -> tuple[float, float]:
    """Return the true disagreement and cost of one fit."""
    drawn = np.random.default_rng(seed).integers(len(population), size=samples)
    policy = fit_policy(kind, population.take(drawn), MaxRisk(risk=risk, delta=DELTA), FitOptions(seed=seed)).policy
    truth = expect(policy, population.at(policy.temperatures))
    return truth.disagreement, truth.mean_cost

"""Bounds on a risk from clean samples: Clopper-Pearson, and how many samples a certificate needs."""

from math import ceil, log, log1p

from scipy import stats


def upper_bound(failures: int, samples: int, delta: float) -> float:
    """Return the Clopper-Pearson upper bound at level 1 - delta of a probability with `failures` in `samples`."""
    if failures >= samples:
        return 1.0
    return float(stats.beta.ppf(1 - delta, failures + 1, samples - failures))


def lower_bound(failures: int, samples: int, delta: float) -> float:
    """Return the Clopper-Pearson lower bound at level 1 - delta of a probability with `failures` in `samples`."""
    if failures == 0:
        return 0.0
    return float(stats.beta.ppf(delta, failures, samples - failures + 1))


def clean_samples_needed(risk: float, delta: float) -> int:
    """Return the least n at which no failure at all certifies `risk`: n >= ln(delta) / ln(1 - risk)."""
    return ceil(log(delta) / log1p(-risk))

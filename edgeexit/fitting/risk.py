"""Upper and lower confidence bounds of a mean loss, and the number of samples that a certificate needs.

Clopper-Pearson for losses of 0 or 1; betting for losses in [0, 1], i.e. fractions of pixels.
"""

from functools import lru_cache
from math import ceil, log, log1p

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq

_Values = npt.NDArray[np.float64]

_ROUNDING = 1e-12


def upper_bound(failures: int, samples: int, delta: float) -> float:
    """Return the Clopper-Pearson upper bound at level 1 - `delta` of a probability, given `failures` in `samples`."""
    if failures >= samples:
        return 1.0
    return float(stats.beta.ppf(1 - delta, failures + 1, samples - failures))


def lower_bound(failures: int, samples: int, delta: float) -> float:
    """Return the Clopper-Pearson lower bound at level 1 - `delta` of a probability, given `failures` in `samples`."""
    if failures == 0:
        return 0.0
    return float(stats.beta.ppf(delta, failures, samples - failures + 1))


def betting_upper_bound(losses: _Values, delta: float) -> float:
    """Return an upper bound at level 1 - `delta` of the mean loss, for independent `losses` [N] in [0, 1].

    For each hypothetical mean, a bettor bets that the next loss is below it, with stakes that depend on the losses so
    far. A mean is rejected once the capital of the bettor has grown by a factor of 1 / `delta`. The bound is much
    tighter than Hoeffding's for losses of low variance. It depends slightly on the order of the losses, which must not
    depend on their values.

    Source: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2023), as in
    Bates et al., "Distribution-Free, Risk-Controlling Prediction Sets" (J. ACM 2021).
    """
    stakes = _stakes(losses, delta)

    def excess(mean: float) -> float:
        return _max_log_capital(losses, stakes, mean) + log(delta)

    lowest = float(losses.mean())
    if excess(1.0) <= 0:
        return 1.0
    if excess(lowest) > 0:
        return lowest
    # The capital grows with the hypothetical mean; the upper end of the bracket is a rejected mean.
    return min(float(brentq(excess, lowest, 1.0, xtol=_ROUNDING)) + _ROUNDING, 1.0)


def _stakes(losses: _Values, delta: float) -> _Values:
    """Return the stakes [N]: higher if the losses before vary less."""
    counts = np.arange(1, len(losses) + 1)
    means = (0.5 + np.cumsum(losses)) / (1 + counts)
    variances = (0.25 + np.cumsum((losses - means) ** 2)) / (1 + counts)
    before = np.append(0.25, variances[:-1])
    return np.minimum(1.0, np.sqrt(2 * log(1 / delta) / (len(losses) * before)))


def _max_log_capital(losses: _Values, stakes: _Values, mean: float) -> float:
    """Return the logarithm of the highest capital that the bettor against `mean` has reached."""
    with np.errstate(divide="ignore"):  # a loss of 1 against a mean of 0 loses the entire capital
        return float(np.cumsum(np.log1p(stakes * (mean - losses))).max())


def clean_samples_needed(risk: float, delta: float, *, fractions: bool = False) -> int:
    """Return the minimum number of samples that certify `risk` if none has a loss: n >= ln(delta) / ln(1 - risk).

    `fractions`: losses are fractions in [0, 1]; the betting bound needs slightly more samples.
    """
    counted = ceil(log(delta) / log1p(-risk))
    return _clean_fractions_needed(risk, delta, counted) if fractions else counted


@lru_cache(maxsize=64)
def _clean_fractions_needed(risk: float, delta: float, lower_limit: int) -> int:
    def certifies(samples: int) -> bool:
        clean = np.zeros(samples)
        return _max_log_capital(clean, _stakes(clean, delta), risk) >= -log(delta)

    below, enough = lower_limit - 1, lower_limit
    while not certifies(enough):
        below, enough = enough, 2 * enough
    while enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if certifies(middle) else (middle, enough)
    return enough

"""Anytime-valid tests of a path of nested thresholds: which of its points have a risk of at most the registered one.

For each point of the path, a bettor bets against "the mean loss is above the risk". Its capital after losses l_t in
[0, 1] is

    M_t = average over f of  prod_{s <= t} (1 + f / (1 - risk) * (risk - l_s)),    0 < f < 1.

While the mean loss of every sample, given those before, is at least the risk, M is a non-negative supermartingale. So
the probability that it ever reaches 1/delta is at most delta (Ville's inequality), however often it is looked at. A
point is certified once it and all safer points have reached 1/delta at some time. With probability at least 1 - delta,
no certified point of the path has a risk above the registered one, at any time: of the points with a higher risk, the
first in the order of the path would have to be certified first, and it is only one test.

Assumptions:

- The path was chosen before the first sample of the test, and the time at which the test began depends on the past
  only. The time at which it ends, or is looked at, can depend on anything.
- The risk of each point stays on the same side of the registered one while the test runs. Samples need not be
  independent: the mean loss of each, given those before, must be at least the risk if the point is to be rejected.
- Full depth, the first point, has no loss.

Forged losses of a few devices cannot certify anything: `discount` takes the highest possible gain of that many samples
away from the capital that must reach 1/delta. After every sample, what remains is at most the capital of the samples
that are not forged alone, whatever the forged ones are and wherever they are. So the discount may grow, and may be that
of other devices from sample to sample, as long as it is at least the number of forged samples up to each sample.

Samples need not be drawn with equal probability: if sample x is drawn with a probability proportional to q(x), which
may depend on the past and is at least q_min > 0, its weight is w = q_min / q(x), and its factor is

    1 + f / (1 - risk) * w * (risk - l).

The mean of w (risk - l) over the samples drawn is q_min / E[q] * (risk - E[l]), so it has the sign of risk - E[l] over
all samples, and M stays a supermartingale. As w <= 1, the factor is positive, and its highest value is that of w = 1.

Sources: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2023); Xu,
Karampatziakis & Mineiro, "Active, anytime-valid risk controlling prediction sets" (NeurIPS 2024); fixed-sequence
testing as in "Learn then Test" (Angelopoulos et al., 2021).
"""

from math import log
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

_FRACTIONS: Final = (0.96, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
"""Fractions f of the highest bet. For losses of 0 or 1, f is the best one if the true risk is (1 - f) * risk."""
_WEIGHTS: Final = np.array([4.0, 2.0, *[1.0] * (len(_FRACTIONS) - 2)])
_LOG_WEIGHTS: Final = np.log(_WEIGHTS / _WEIGHTS.sum())
"""Logarithm of the capital with which each bet begins; high bets begin with more, so that few samples certify."""
_BLOCK: Final = 256
"""Samples whose capitals are in memory at the same time."""
_PRECISION: Final = 1e-6


class PathTest(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The tests of all points of a path, from `new_path_test`; `observe` returns the next state."""

    risk: float
    delta: float
    """Maximum probability that any certified point has a higher risk."""
    log_capitals: npt.NDArray[np.float64]
    """[P, F] logarithm of the capital of each bet, for each point."""
    log_peaks: npt.NDArray[np.float64]
    """[P] highest logarithm of M so far."""
    loss_sums: npt.NDArray[np.float64]
    """[P] sum of the losses of each point, times the weights of the samples."""
    samples: int = 0
    discount: int = 0
    """So many of the samples may be forged."""
    missing_weight: float = 0.0
    """Number of samples minus the sum of their weights."""

    @property
    def weight(self) -> float:
        """Sum of the weights of the samples; their number if they were drawn with equal probability."""
        return self.samples - self.missing_weight

    @property
    def certified(self) -> int:
        """Index of the boldest certified point; 0, full depth, needs no test."""
        reached = self.log_peaks >= -log(self.delta)
        reached[0] = True
        return int(len(reached) if reached.all() else reached.argmin()) - 1

    def observe(
        self,
        losses: npt.NDArray[Any],
        *,
        weights: npt.NDArray[np.float64] | None = None,
        discounts: npt.NDArray[np.int64] | None = None,
    ) -> "PathTest":
        """Return the state after the next samples. It does not depend on how samples are split into calls.

        Args:
            losses: [n, P] in [0, 1] of the samples under every point.
            weights: [n] in (0, 1], the lowest probability of a sample divided by that of this one; None: all are 1.
            discounts: [n] up to each sample, so many of all samples of the test may be forged; None: as many as before.

        """
        if not len(losses):
            return self
        weighted, missing = losses.sum(axis=0), self.missing_weight
        if weights is not None:
            weighted, missing = weights @ losses, missing + len(losses) - float(weights.sum())
            losses = self.risk + weights[:, None] * (losses - self.risk)  # the same factor with a weight of 1
        if discounts is None:
            discounts = np.full(len(losses), self.discount)
        capitals, peaks = self.log_capitals, self.log_peaks.copy()
        bets = _bets(self.risk)
        gain = np.log1p(bets * self.risk)
        binary = losses.dtype == np.bool_ or bool(((losses == 0) | (losses == 1)).all())
        before = self.discount
        for start in range(0, len(losses), _BLOCK):
            given, forged = losses[start : start + _BLOCK], discounts[start : start + _BLOCK]
            times, points = np.nonzero(_may_peak(given, np.diff(forged, prepend=before), self.risk))
            if binary:  # the capitals follow from the numbers of losses: about ten times as fast
                counts = np.cumsum(given, axis=0, dtype=np.float64)
                fall = np.log1p(bets * (self.risk - 1)) - gain
                reached = capitals[points] + (times + 1)[:, None] * gain + counts[times, points, None] * fall
                capitals = capitals + len(given) * gain + counts[-1, :, None] * fall
            else:
                growing = capitals + np.cumsum(np.log1p(bets * (self.risk - given[:, :, None])), axis=0)
                reached, capitals = growing[times, points], growing[-1]
            np.maximum.at(peaks, points, _log_sums(reached + _LOG_WEIGHTS - forged[times, None] * gain))
            before = int(forged[-1])
        return msgspec.structs.replace(
            self,
            log_capitals=capitals,
            log_peaks=peaks,
            loss_sums=self.loss_sums + weighted,
            samples=self.samples + len(losses),
            discount=int(discounts[-1]),
            missing_weight=missing,
        )

    def upper_bound(self, point: int) -> float:
        """Return a bound on the mean loss of a point: the lowest risk that its losses certify now, or 1.

        It holds with probability 1 - delta at any time, for a point that is not chosen by its losses. Losses between 0
        and 1 count as that part of a loss of 1, and a sample of weight w as the part w of a sample, which makes the
        bound larger: the logarithm is concave.
        """
        losses = self.loss_sums[point]

        def missing(risk: float) -> float:
            bets = _bets(risk)
            gain, loss = np.log1p(bets * risk), np.log1p(bets * (risk - 1))
            capitals = _LOG_WEIGHTS + (self.weight - self.discount - losses) * gain + losses * loss
            return -log(self.delta) - float(_log_sums(capitals))

        below, above = 0.0, 1.0
        while above - below > _PRECISION:
            middle = (below + above) / 2
            below, above = (below, middle) if missing(middle) <= 0 else (middle, above)
        return above


def new_path_test(points: int, *, risk: float, delta: float) -> PathTest:
    """Return the tests of a path of `points` points without samples, for 0 < risk < 1 and 0 < delta < 1."""
    return PathTest(
        risk=risk,
        delta=delta,
        log_capitals=np.zeros((points, len(_FRACTIONS))),
        log_peaks=np.zeros(points),
        loss_sums=np.zeros(points),
    )


def samples_to_certify(test: PathTest, point: int, *, limit: int = 10**7) -> int | None:
    """Return how many more samples certify a point if its mean loss stays as it is; None if more than `limit` would.

    An estimate for losses of 0 or 1, from the mean growth of the capital of every bet. The fraction of the samples that
    may be forged and the mean weight stay the same, too. Raises IndexError for no such point.
    """
    if test.certified >= point:
        return 0
    bets = _bets(test.risk)
    gain = np.log1p(bets * test.risk)
    samples, weight = max(test.samples, 1), test.weight / test.samples if test.samples else 1.0
    mean, forged = test.loss_sums[point] / samples, test.discount / samples
    growth = (weight - mean - forged) * gain + mean * np.log1p(bets * (test.risk - 1))
    begun = _LOG_WEIGHTS + test.log_capitals[point] - test.discount * gain

    def certifies(further: int) -> bool:
        return bool(_log_sums(begun + further * growth) >= -log(test.delta))

    below, enough = 0, 1
    while not certifies(enough):
        below, enough = enough, 2 * enough
        if below > limit:
            return None
    while enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if certifies(middle) else (middle, enough)
    return enough


def _may_peak(losses: npt.NDArray[Any], growth: npt.NDArray[np.int64], risk: float) -> npt.NDArray[np.bool_]:
    """Return after which samples [n, P] M can be higher than after the next one; `growth` [n] is that of the discount.

    M does not fall by a sample whose loss is at most the risk while the discount does not grow, nor by one without loss
    that is itself discounted. After the last sample M is always compared.
    """
    falls = np.where(growth[:, None] <= 0, losses > risk, (losses > 0) | (growth[:, None] > 1))
    return np.concatenate([falls[1:], np.ones((1, losses.shape[1]), dtype=np.bool_)])


def _bets(risk: float) -> npt.NDArray[np.float64]:
    return np.array(_FRACTIONS) / (1 - risk)


def _log_sums(logarithms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the logarithms of the sums over the last axis; a few times faster than `logaddexp.reduce`."""
    highest = logarithms.max(axis=-1)
    return np.asarray(highest + np.log(np.exp(logarithms - highest[..., None]).sum(axis=-1)))

"""Raises an alarm when the mean loss of a policy in force exceeds a risk; estimates when that began.

Every sample s begins a bet that the mean loss is above the risk p from then on. The capitals of all bets, with which
the bets of sample s begin with a weight w_s and the weights of all samples add up to 1, are

    S_t = (S_{t-1} + w_t) L_t,    L_t = 1 + b (l_t - p),    b = (q - p) / (p (1 - p)),

averaged over a few alternative risks q. This is a Shiryaev-Roberts recursion. While the mean loss of every sample,
given those before, is at most p, S plus the weights that are left is a non-negative supermartingale that begins at 1.
So the probability that it ever reaches 1/alpha is at most alpha (Ville's inequality), however long the policy is in
force, and also if it is replaced by others whose mean loss is at most p.
The weights fall slowly, w_s ~ 1 / (s log^2 s), so a change after 10,000 samples takes about 12 / ln(q/p) more losses
than one after the first sample.

If samples are drawn with unequal probabilities, a factor is 1 + b w (l_t - p) with the weight w of the sample, as in
`path_test`, which also proves it: S stays a supermartingale, because w <= 1 and b < 1/p.

The estimated change is the first sample of the strongest bet. It is chosen because of the losses that follow it, and
can lie before the change. So the samples since then can choose a path, but cannot certify a point of it.

Sources: Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (NEJSDS 2023);
Timans, Verma, Nalisnick & Naesseth, "On continuous monitoring of risk violations under unknown shift" (UAI 2025).
"""

from math import log
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

_FACTORS: Final = (1.5, 2.0, 3.0, 5.0)
"""Alternative risks, as multiples of the risk: low ones detect small changes, high ones detect large changes fast."""
_OFFSET: Final = 100
"""Samples before the weights begin to fall like 1 / (s log^2 s)."""


class ChangeAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """The losses exceed the risk. Positions are those that were passed to `observe`."""

    change_position: int
    """Position of the first sample of the estimated change."""
    alarm_position: int
    """Position of the sample that raised the alarm."""
    e_value: float
    """S at that sample, at least 1/alpha."""


class ChangeMonitor(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a monitor, from `new_monitor`; `observe` returns the next state."""

    risk: float
    alpha: float
    """Maximum probability that an alarm is ever raised while the risk is not exceeded."""
    log_statistics: tuple[float, ...]
    """ln S of each alternative risk."""
    log_runs: tuple[float, ...]
    """ln of the capital of the strongest bet of each alternative risk, which began with 1 at its run's start."""
    run_starts: tuple[int, ...]
    """Position of the first sample of that bet."""
    samples: int = 0
    alarm: ChangeAlarm | None = None

    def observe(
        self,
        positions: npt.NDArray[np.int64],
        losses: npt.NDArray[Any],
        *,
        weights: npt.NDArray[np.float64] | None = None,
    ) -> "ChangeMonitor":
        """Return the state after the next samples. The alarm does not depend on how samples are split into calls.

        After an alarm the monitor does not change any more.

        Args:
            positions: [n] of the samples, increasing.
            losses: [n] in [0, 1].
            weights: [n] in (0, 1], the lowest probability of a sample divided by that of this one; None: all are 1.

        """
        if self.alarm is not None or not len(losses):
            return self
        excess = np.asarray(losses, np.float64) - self.risk
        ratios = np.log1p(_bets(self.risk) * (excess if weights is None else weights * excess)[:, None])
        sums = np.cumsum(ratios, axis=0)
        before = sums - ratios
        log_weights = np.log(_weights(self.samples, len(losses)))[:, None]
        begun = np.concatenate([np.array([self.log_statistics]), log_weights - before])
        statistics = sums + np.logaddexp.accumulate(begun, axis=0)[1:]
        log_e_values = np.logaddexp.reduce(statistics, axis=1) - log(len(_FACTORS))
        crossed = log_e_values >= -log(self.alpha)
        last = int(crossed.argmax()) if crossed.any() else len(losses) - 1
        runs, starts = self._strongest(sums[: last + 1], before[: last + 1], positions[: last + 1])
        alarm = None
        if crossed[last]:
            alarm = ChangeAlarm(
                change_position=int(starts[runs.argmax()]),
                alarm_position=int(positions[last]),
                e_value=float(np.exp(log_e_values[last])),
            )
        return msgspec.structs.replace(
            self,
            log_statistics=tuple(map(float, statistics[last])),
            log_runs=tuple(map(float, runs)),
            run_starts=tuple(map(int, starts)),
            samples=self.samples + last + 1,
            alarm=alarm,
        )

    def _strongest(
        self, sums: npt.NDArray[np.float64], before: npt.NDArray[np.float64], positions: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return ln of the capital [F] of the strongest bet after the last sample, and the position [F] of its start.

        A bet that began at sample j has sums[-1] - before[j]: the strongest began where `before` was lowest, or earlier
        than these samples.
        """
        lows = np.concatenate([-np.array([self.log_runs]), before])
        lowest = len(lows) - 1 - lows[::-1].argmin(axis=0)  # the newest of equal ones
        starts = np.where(lowest == 0, np.array(self.run_starts), positions[np.maximum(lowest - 1, 0)])
        return sums[-1] - lows[lowest, np.arange(lows.shape[1])], starts


def new_monitor(risk: float, *, alpha: float) -> ChangeMonitor:
    """Return a monitor without samples, for 0 < risk < 1 and 0 < alpha < 1."""
    nothing = (-np.inf,) * len(_FACTORS)
    return ChangeMonitor(
        risk=risk, alpha=alpha, log_statistics=nothing, log_runs=nothing, run_starts=(0,) * len(_FACTORS)
    )


def detection_bound(monitor: ChangeMonitor, risk: float, *, delta: float, limit: int = 10**6) -> int | None:
    """Return within how many samples an alarm comes, except with probability `delta`, if the risk changes to `risk`.

    For losses of 0 or 1, and a change at the next sample. None if it takes more than `limit` samples.
    """
    needed = -log(monitor.alpha) + log(len(_FACTORS)) - log(float(_weights(monitor.samples, 1)[0]))
    bets = _bets(monitor.risk)
    gain, loss = np.log1p(bets * (1 - monitor.risk)), -np.log1p(-bets * monitor.risk)

    def detects(samples: int) -> bool:
        losses = np.ceil((needed + samples * loss) / (gain + loss)).min()
        return bool(stats.binom.sf(losses - 1, samples, risk) >= 1 - delta)

    enough = 1
    while not detects(enough):
        enough *= 2
        if enough > limit:
            return None
    below = enough // 2
    while enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if detects(middle) else (middle, enough)
    return enough


def _bets(risk: float) -> npt.NDArray[np.float64]:
    """Return the bets b [F] for the alternative risks, each of which lies between `risk` and 1."""
    alternatives = np.minimum(np.array(_FACTORS) * risk, (1 + risk) / 2)
    return np.asarray((alternatives - risk) / (risk * (1 - risk)))


def _weights(first: int, count: int) -> npt.NDArray[np.float64]:
    """Return the weights [count] of the samples from number `first` on; those of all samples from 0 on add up to 1."""
    left = log(_OFFSET) / np.log(np.arange(first, first + count + 1) + _OFFSET)
    return np.asarray(left[:-1] - left[1:])

"""Drift detector: raises an anytime-valid alarm when the mean of 0/1 losses exceeds a risk; estimates when it began.

The detector is an e-detector (Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change
detection", New England Journal of Statistics in Data Science 2023). It averages CUSUM recursions, one per alternative
risk q,

    M_t = max(1, M_{t-1}) L_t,    L_t = q/p for a loss, (1-q)/(1-p) otherwise,    p = the registered risk

and raises the alarm when the average reaches 1/alpha. While the true risk is at most p, the mean number of samples
until a false alarm is at least 1/alpha, however often the statistic is checked. The guarantee needs no assumption about
the distribution of the losses. The estimated change is the first sample of the current run of the largest M: the sample
after the last one at which this M was at most 1.
"""

from math import log, log1p
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

_FACTORS: Final = (1.5, 2.0, 3.0, 5.0)
"""Alternative risks, as multiples of the registered risk.

Small factors detect small changes; large factors detect large changes faster.
"""


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """The losses exceed the registered risk. Positions are those that were passed to `observe`."""

    change_position: int
    """Position of the first sample of the estimated change."""
    alarm_position: int
    """Position of the sample that raised the alarm."""
    e_value: float
    """The averaged statistic at that sample, at least 1/alpha."""


class DriftDetector(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a detector, from `new_detector`; `observe` returns the next state."""

    risk: float
    alpha: float
    log_statistics: tuple[float, ...]
    """ln M_t of each alternative risk."""
    run_starts: tuple[int, ...]
    """Position of the first sample of the current run, for each alternative risk."""
    samples: int = 0
    alarm: DriftAlarm | None = None


def new_detector(risk: float, *, alpha: float) -> DriftDetector:
    """Return a detector without samples, for 0 < risk < 1; on average, at least 1/alpha samples per false alarm."""
    return DriftDetector(risk=risk, alpha=alpha, log_statistics=(0.0,) * len(_FACTORS), run_starts=(0,) * len(_FACTORS))


def alternatives(risk: float) -> tuple[float, ...]:
    """Return the alternative risks that are tested against `risk`; each lies between `risk` and 1."""
    return tuple(min(factor * risk, (1 + risk) / 2) for factor in _FACTORS)


def observe(detector: DriftDetector, positions: npt.NDArray[np.int64], losses: npt.NDArray[np.bool_]) -> DriftDetector:
    """Return the detector after the losses [n] of the samples at `positions` [n], which must increase.

    After an alarm the detector does not change any more. The alarm does not depend on how the samples are split into
    calls.
    """
    if detector.alarm is not None or not len(losses):
        return detector
    runs = [
        _cusum(_log_ratios(detector.risk, q, losses), positions, log_statistic, start)
        for q, log_statistic, start in zip(
            alternatives(detector.risk), detector.log_statistics, detector.run_starts, strict=True
        )
    ]
    statistics = np.stack([run[0] for run in runs])
    starts = np.stack([run[1] for run in runs])
    log_e_values = np.logaddexp.reduce(statistics, axis=0) - log(len(_FACTORS))
    crossed = log_e_values >= -log(detector.alpha)
    last = int(crossed.argmax()) if crossed.any() else len(losses) - 1
    alarm = None
    if crossed[last]:
        strongest = int(statistics[:, last].argmax())
        alarm = DriftAlarm(
            change_position=int(starts[strongest, last]),
            alarm_position=int(positions[last]),
            e_value=float(np.exp(log_e_values[last])),
        )
    return msgspec.structs.replace(
        detector,
        log_statistics=tuple(map(float, statistics[:, last])),
        run_starts=tuple(map(int, starts[:, last])),
        samples=detector.samples + last + 1,
        alarm=alarm,
    )


def _log_ratios(p: float, q: float, losses: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.where(losses, log(q / p), log1p(-q) - log1p(-p))


def _cusum(
    log_ratios: npt.NDArray[np.float64], positions: npt.NDArray[np.int64], log_statistic: float, start: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return ln M [n] after each sample, and the position [n] of the first sample of the run that it belongs to.

    In closed form, ln M_t = C_t - min(-ln M_0, C_0, .., C_{t-1}), where C is the cumulative sum of the log ratios. If
    the minimum is C_j, the run began with sample j + 1.
    """
    sums = np.concatenate([[0.0], np.cumsum(log_ratios)])
    floors = np.concatenate([[-log_statistic], sums[:-1]])
    lowest = np.minimum.accumulate(floors)
    begins = np.concatenate([[start], positions])
    newest_low = np.maximum.accumulate(np.where(floors == lowest, np.arange(len(floors)), 0))
    return sums[1:] - lowest[1:], begins[newest_low[1:]]

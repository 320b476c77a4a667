"""Does the risk still hold? An anytime-valid alarm on a stream of 0/1 losses, and since when it does not.

An e-detector (Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", New
England Journal of Statistics in Data Science 2023): the average of CUSUM recursions, one an alternative risk q,

    M_t = max(1, M_{t-1}) L_t,    L_t = q/p for a loss, (1-q)/(1-p) otherwise,    p = the risk that should hold

raises the alarm when it reaches 1/alpha. While the true risk is at most p, whatever it is and however often one
looks, the mean number of samples until a false alarm is at least 1/alpha; no distribution has to be known. The change
is put where the run of the largest M began: the last time it stood at or below 1.
"""

from math import log, log1p
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

_FACTORS: Final = (1.5, 2.0, 3.0, 5.0)
"""Alternatives, as multiples of the risk: a mild change is found late, a great one soon."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """The risk does not hold any more."""

    since: int
    """Position of the first sample after the estimated change."""
    at: int
    """Position of the sample that raised the alarm."""
    evidence: float
    """The averaged statistic there, at least 1/alpha."""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a detector; `watch` makes one and `observe` gives the next."""

    risk: float
    alpha: float
    log_statistics: tuple[float, ...]
    """ln M_t of every alternative."""
    run_starts: tuple[int, ...]
    """Position at which each alternative's current run began."""
    samples: int = 0
    alarm: Alarm | None = None


def watch(risk: float, *, alpha: float) -> Watch:
    """Return a detector that has seen nothing, for 0 < risk < 1 and at most one false alarm in 1/alpha samples."""
    return Watch(risk=risk, alpha=alpha, log_statistics=(0.0,) * len(_FACTORS), run_starts=(0,) * len(_FACTORS))


def alternatives(risk: float) -> tuple[float, ...]:
    """Return the risks that are tested against `risk`, each between it and 1."""
    return tuple(min(factor * risk, (1 + risk) / 2) for factor in _FACTORS)


def observe(before: Watch, positions: npt.NDArray[np.int64], losses: npt.NDArray[np.bool_]) -> Watch:
    """Return the detector after more losses [n], whose increasing positions [n] name them; an alarm is final.

    One call with all samples and many calls with a few give the same alarm.
    """
    if before.alarm is not None or not len(losses):
        return before
    runs = [
        _cusum(_log_ratios(before.risk, q, losses), positions, log_statistic, start)
        for q, log_statistic, start in zip(
            alternatives(before.risk), before.log_statistics, before.run_starts, strict=True
        )
    ]
    statistics = np.stack([run[0] for run in runs])
    starts = np.stack([run[1] for run in runs])
    evidence = np.logaddexp.reduce(statistics, axis=0) - log(len(_FACTORS))
    crossed = evidence >= -log(before.alpha)
    last = int(crossed.argmax()) if crossed.any() else len(losses) - 1
    alarm = None
    if crossed[last]:
        strongest = int(statistics[:, last].argmax())
        alarm = Alarm(
            since=int(starts[strongest, last]), at=int(positions[last]), evidence=float(np.exp(evidence[last]))
        )
    return msgspec.structs.replace(
        before,
        log_statistics=tuple(map(float, statistics[:, last])),
        run_starts=tuple(map(int, starts[:, last])),
        samples=before.samples + last + 1,
        alarm=alarm,
    )


def _log_ratios(p: float, q: float, losses: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.where(losses, log(q / p), log1p(-q) - log1p(-p))


def _cusum(
    log_ratios: npt.NDArray[np.float64], positions: npt.NDArray[np.int64], log_statistic: float, start: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return ln M [n] and the position [n] at which its run began.

    Unrolled, ln M_t = C_t - min(-ln M_0, C_0, .., C_{t-1}) with C the running sum of the log ratios; where the
    minimum is C_j, the run began after sample j.
    """
    sums = np.concatenate([[0.0], np.cumsum(log_ratios)])
    floors = np.concatenate([[-log_statistic], sums[:-1]])
    lowest = np.minimum.accumulate(floors)
    begins = np.concatenate([[start], positions])
    newest_low = np.maximum.accumulate(np.where(floors == lowest, np.arange(len(floors)), 0))
    return sums[1:] - lowest[1:], begins[newest_low[1:]]

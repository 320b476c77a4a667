"""The rules that `drift.py` compares: each reads audits as they arrive, and decides which policy is in force."""

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from edgeexit_calibration.recalibrate.audits import Audits, outcomes
from edgeexit_calibration.recalibrate.guarantee import advance, begin
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from scipy import stats

from edgeexit.errors import FittingError
from edgeexit.fitting import MaxRisk, ReadoutDataset, fit_thresholds, samples_needed
from edgeexit.policies import Policy

RISK, DELTA = 0.05, 0.1
_OLD_ALPHA: Final = 0.001
_FACTORS: Final = (1.5, 2.0, 3.0, 5.0)
_WINDOW: Final = 200
"""Audits whose confidences are compared with those of the reference."""
_REFIT: Final = 500
"""Audits after an alarm of a window that a refit uses."""
_PSI_LIMIT, _PSI_BINS = 0.2, 10
_KS_LEVEL = 0.01


class Rule(Protocol):
    """Decides which policy is in force."""

    policy: Policy
    alarms: list[int]
    """Ids of the audits that raised alarms."""

    def observe(self, audits: Audits) -> None:
        """Read the next audits."""


class Fixed:
    """The registered policy for ever."""

    def __init__(self, policy: Policy, costs: tuple[float, ...]) -> None:
        self.policy, self.alarms, self.costs = policy, list[int](), costs

    def observe(self, audits: Audits) -> None:
        """Read the next audits."""


class Guaranteed:
    """The rule of this project, without tolerated devices."""

    tolerated_devices = 0

    def __init__(self, policy: Policy, costs: tuple[float, ...]) -> None:
        self._rules = GuaranteeRules(
            risk=RISK,
            delta=DELTA,
            costs=costs,
            tolerated_devices=self.tolerated_devices,
            tolerated_in_alarms=self.tolerated_devices,
        )
        self._state = begin(policy, self._rules, last=0)
        self._seen: list[Audits] = []
        self.alarms: list[int] = []

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._state.policy

    def observe(self, audits: Audits) -> None:
        """Read the next audits."""
        self._seen.append(audits)
        while self._state.last < audits.ids[-1]:
            self._state, change = advance(self._state, audits, self._history, self._rules)
            if change is not None and change.alarm is not None:
                self.alarms.append(change.alarm.alarm_position)

    def _history(self, first: int, last: int, limit: int) -> Audits:
        return newest(self._seen, first=max(first, last - limit + 1), last=last)


class GuaranteedAgainstOne(Guaranteed):
    """The rule of this project as it is by default: one device may forge audits."""

    tolerated_devices = 1


class OldRule:
    """What this project did before: an e-detector, and a certified refit on the audits since the estimated change."""

    def __init__(self, policy: Policy, costs: tuple[float, ...]) -> None:
        self.policy, self.alarms, self._costs = policy, list[int](), costs
        self._seen: list[Audits] = []
        self._restart()

    def _restart(self) -> None:
        self._logs, self._starts, self._change = np.zeros(len(_FACTORS)), [0] * len(_FACTORS), 0

    def observe(self, audits: Audits) -> None:
        """Read the next audits."""
        self._seen.append(audits)
        losses = outcomes(self.policy, audits, [self.policy.thresholds], "disagreement").losses[:, 0]
        for position, loss in zip(audits.ids.tolist(), losses.tolist(), strict=True):
            if self._change:
                break
            for index, factor in enumerate(_FACTORS):
                if self._logs[index] <= 0:
                    self._logs[index], self._starts[index] = 0.0, position
                ratio = factor if loss else (1 - factor * RISK) / (1 - RISK)
                self._logs[index] += np.log(ratio)
            if np.exp(self._logs).mean() >= 1 / _OLD_ALPHA:
                self.alarms.append(position)
                self._change = self._starts[int(self._logs.argmax())]
        if not self._change:
            return
        since = newest(self._seen, first=self._change, last=int(audits.ids[-1]))
        if len(since.ids) >= 2 * samples_needed(RISK, DELTA):
            fitted = refitted(self.policy, since, self._costs)
            if fitted is not None:
                self.policy = fitted
                self._restart()


class Windows:
    """As MLOps tools do: compare the confidences of a window with a reference, and refit after an alarm."""

    def __init__(
        self,
        policy: Policy,
        costs: tuple[float, ...],
        differ: Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], bool],
    ) -> None:
        self.policy, self.alarms, self._costs, self._differ = policy, list[int](), costs, differ
        self._seen: list[Audits] = []
        self._reference: npt.NDArray[np.float32] | None = None
        self._window_from, self._refit_from = 1, 0

    def observe(self, audits: Audits) -> None:
        """Read the next audits."""
        self._seen.append(audits)
        last = int(audits.ids[-1])
        if self._refit_from:
            since = newest(self._seen, first=self._refit_from, last=last)
            if len(since.ids) >= _REFIT:
                fitted = refitted(self.policy, since, self._costs)
                self.policy = self.policy if fitted is None else fitted
                self._reference = since.readouts[:, 0, 1]
                self._refit_from, self._window_from = 0, last + 1
            return
        if last + 1 - self._window_from < _WINDOW:
            return
        confidences = newest(self._seen, first=self._window_from, last=last).readouts[:, 0, 1]
        self._window_from = last + 1
        if self._reference is None:
            self._reference = confidences
        elif self._differ(self._reference, confidences):
            self.alarms.append(last)
            self._refit_from = last + 1
        elif len(self._reference) < _REFIT:
            self._reference = np.concatenate([self._reference, confidences])


def _by_psi(reference: npt.NDArray[np.float32], window: npt.NDArray[np.float32]) -> bool:
    """Return whether the population stability index exceeds 0.2, over tenths of the reference."""
    edges = np.quantile(reference, np.linspace(0, 1, _PSI_BINS + 1))[1:-1]
    expected, found = (
        np.bincount(np.searchsorted(edges, one), minlength=_PSI_BINS) / len(one) + 1e-3 for one in (reference, window)
    )
    return bool(((found - expected) * np.log(found / expected)).sum() > _PSI_LIMIT)


def _by_ks(reference: npt.NDArray[np.float32], window: npt.NDArray[np.float32]) -> bool:
    """Return whether a two-sample Kolmogorov-Smirnov test rejects at 1 %."""
    return bool(stats.ks_2samp(reference, window).pvalue < _KS_LEVEL)


def psi(policy: Policy, costs: tuple[float, ...]) -> Rule:
    """Return the rule with the population stability index."""
    return Windows(policy, costs, _by_psi)


def ks(policy: Policy, costs: tuple[float, ...]) -> Rule:
    """Return the rule with the Kolmogorov-Smirnov test."""
    return Windows(policy, costs, _by_ks)


RULES: Final[dict[str, Callable[[Policy, tuple[float, ...]], Rule]]] = {
    "guarantee": GuaranteedAgainstOne,
    "guarantee, no forger": Guaranteed,
    "before": OldRule,
    "PSI and refit": psi,
    "KS and refit": ks,
    "fixed thresholds": Fixed,
}


def newest(parts: list[Audits], *, first: int, last: int) -> Audits:
    """Return the audits with ids from `first` to `last`."""
    wanted = [part for part in parts if part.ids[-1] >= first and part.ids[0] <= last]
    joined = Audits(*(np.concatenate(column) for column in zip(*(part[:3] for part in wanted), strict=True)))
    start = first - int(joined.ids[0])
    return joined.part(max(start, 0), max(start, 0) + last - first + 1)


def refitted(policy: Policy, audits: Audits, costs: tuple[float, ...]) -> Policy | None:
    """Return a policy with a certificate on these audits; None if no policy fits."""
    dataset = ReadoutDataset(readouts=audits.readouts, costs=costs, temperatures=policy.temperatures)
    try:
        return fit_thresholds(policy, dataset, MaxRisk(risk=RISK, delta=DELTA)).policy
    except FittingError:
        return None

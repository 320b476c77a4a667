"""Watches the policy on trial: reverts it when it fails, and makes it the last good one when it passes."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from edgeexit.agent.counters import Counters, RevisionSnapshot
from edgeexit.agent.policy.active_policy import PolicyOnTrial, PolicySelector
from edgeexit.agent.policy.guard import TrialCounts, failure, is_settled

_log = logging.getLogger(__name__)

_RETRY_S: Final = 60.0


class PolicyTrial:
    """Checks the policy on trial. Only one thread may call `check`.

    Args:
        policies: the policy on trial, and what follows from the verdict.
        counters: what ran under it.
        clock: returns monotonic seconds.

    """

    def __init__(
        self, policies: PolicySelector, counters: Counters, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policies = policies
        self._counters = counters
        self._clock = clock
        self._trial: PolicyOnTrial | None = None
        self._before = TrialCounts((), ())
        """The counts of the revision before the trial: another policy may have had the same revision."""
        self._retry_due = -math.inf

    def check(self) -> None:
        """Take new counts into account. Call it about every second, and after each change of the active policy."""
        self._policies.end_crash_window()
        trial = self._policies.on_trial
        if trial is None:
            self._trial = None
            return
        found = _counts(self._counters.snapshot(trial.document.revision))
        if trial is not self._trial:
            self._trial, self._before = trial, found
            return
        counts = TrialCounts(
            _difference(found.exited, self._before.exited), _difference(found.latency, self._before.latency)
        )
        reason = failure(trial.document, counts)
        if reason is not None:
            self._policies.revert(reason)
        elif (
            not self._policies.in_crash_window
            and is_settled(trial.document, counts)
            and self._clock() >= self._retry_due
        ):
            try:
                self._policies.pass_trial()
            except OSError as error:
                self._retry_due = self._clock() + _RETRY_S
                _log.info("the policy that passed its trial cannot be stored: %s", error.strerror or error)


def _counts(snapshot: RevisionSnapshot) -> TrialCounts:
    latency = [sum(bins) for bins in zip(*(one.latency for one in snapshot.exits), strict=True)]
    return TrialCounts([one.exited for one in snapshot.exits], latency)


def _difference(after: Sequence[int], before: Sequence[int]) -> list[int]:
    return [a - b for a, b in zip(after, before, strict=True)]

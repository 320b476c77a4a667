"""Lets things happen to simulated devices: drift, churn, restarts, times offline, jumps of the clock, clones."""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Final

from edgeexit.simulate.member import FleetMember, new_start
from edgeexit.simulate.model import Workload
from edgeexit.simulate.options import FleetEvents

_OFFLINE_S: Final = (1.0, 10.0)
_CLONE_STATE_S: Final = 2.0
"""Time between two states of a clone; each is evidence that both agents run."""
_MINUTE_S: Final = 60.0
_JUMPS_S: Final = (-1e9, -60.0, 3600.0, 86_400.0, 1e9, 1e18, 1e300)
"""By how much an uptime jumps; below 0 it is 0."""
_ATTEMPTS: Final = 20


class FleetDirector:
    """Applies events to the devices.

    Args:
        events: what happens, and how often.
        members: all devices, those included that may join.
        workload: receives the drift.
        source: random numbers.

    Attributes:
        counts: event -> how often it happened.

    """

    def __init__(
        self, events: FleetEvents, members: Sequence[FleetMember], workload: Workload, source: random.Random
    ) -> None:
        self.counts: dict[str, int] = {}
        self._events = events
        self._members = members
        self._clones = [member for member in members if member.agent.sent.role == "clone"]
        self._workload = workload
        self._random = source
        self._drift = events.drift
        self._credits: dict[str, float] = {}
        self._offline: list[tuple[float, int, FleetMember]] = []
        self._order = itertools.count()
        self._draining: list[FleetMember] = []
        self._clones_due = 0.0

    def step(self, now: float, *, load_s: float, step_s: float) -> None:
        """Let happen what is due.

        Args:
            now: monotonic seconds.
            load_s: seconds since the begin of the load.
            step_s: seconds since the last step.

        """
        self._begin_drift(load_s)
        self._bring_back(now)
        self._restart_drained(now)
        self._publish_clones(now)
        events = self._events
        for name, rate, happen in (
            ("churn", events.churn, self._churn),
            ("restarts", events.restarts, self._restart),
            ("times offline", events.stragglers, self._go_offline),
            ("clock jumps", events.clock_jumps, self._jump),
        ):
            credit = self._credits.get(name, 0.0) + rate * len(self._members) * step_s / _MINUTE_S
            while credit >= 1:
                credit -= 1
                if happen(now):
                    self.counts[name] = self.counts.get(name, 0) + 1
            self._credits[name] = credit

    def end(self, now: float) -> None:
        """Bring everything back that is offline: the load has ended."""
        while self._offline:
            heapq.heappop(self._offline)[2].end_offline(now)

    def _begin_drift(self, load_s: float) -> None:
        if self._drift is not None and load_s >= self._drift.begins_s:
            self._workload.drift(self._drift, self._members[0].agent.samples)
            self.counts["drift"] = 1
            self._drift = None

    def _bring_back(self, now: float) -> None:
        while self._offline and self._offline[0][0] <= now:
            heapq.heappop(self._offline)[2].end_offline(now)

    def _restart_drained(self, now: float) -> None:
        waiting = []
        for member in self._draining:
            if member.agent.sent.pending:
                waiting.append(member)
            else:
                member.is_draining = False
                member.restart(new_start(), now)
        self._draining = waiting

    def _publish_clones(self, now: float) -> None:
        if self._clones and now >= self._clones_due:
            self._clones_due = now + _CLONE_STATE_S
            for member in self._clones:
                member.publish_state(now)

    def _churn(self, now: float) -> bool:
        """Let one device leave, and another one join with a new start."""
        leaving = self._pick(lambda member: member.is_active and member.may_restart)
        joining = self._pick(lambda member: not member.is_active and member.may_restart)
        if leaving is None or joining is None:
            return False
        leaving.publish_state(now, online=False)
        leaving.is_active = False
        joining.is_active = True
        joining.restart(new_start(), now)
        return True

    def _restart(self, now: float) -> bool:
        """Restart an agent: at once, so that its outbox has messages of the earlier start, or when it is empty."""
        member = self._pick(lambda one: one.is_active and one.may_restart)
        if member is None:
            return False
        if self._random.random() < 0.5:  # noqa: PLR2004 - half of them
            member.restart(new_start(), now)
        else:
            member.is_draining = True
            self._draining.append(member)
        return True

    def _go_offline(self, now: float) -> bool:
        member = self._pick(lambda one: one.is_active)
        if member is None:
            return False
        member.offline_until = now + self._random.uniform(*_OFFLINE_S)
        heapq.heappush(self._offline, (member.offline_until, next(self._order), member))
        return True

    def _jump(self, now: float) -> bool:  # noqa: ARG002 - the time of the jump does not matter
        member = self._pick(lambda one: one.is_active)
        if member is None:
            return False
        member.agent.skew_s = self._random.choice(_JUMPS_S)
        return True

    def _pick(self, fits: Callable[[FleetMember], bool]) -> FleetMember | None:
        """Return a random device that fits, is not a clone, and to which nothing happens now."""
        for _ in range(_ATTEMPTS):
            member = self._random.choice(self._members)
            is_busy = member.offline_until or member.is_draining or member.agent.sent.role == "clone"
            if not is_busy and fits(member):
                return member
        return None

"""Builds the messages that the device publishes: its state, reports from the counters, and audits."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from edgeexit import __version__
from edgeexit.agent.counters import Counters
from edgeexit.agent.fleet_link.freshness import Freshness
from edgeexit.agent.fleet_link.identity import DeviceIdentity
from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.agent.policy.active_policy import PolicySelector
from edgeexit.agent.policy.check import Recipient
from edgeexit.log_text import one_line
from edgeexit.wire import Audit, AuditedSample, Report, State

_MAX_PROBLEMS: Final = 8
"""As many as a state may contain."""


class Reporter:
    """Builds messages and adds reports and audits to the outbox. Thread-safe.

    Args:
        recipient: who this device is and which bundle it runs.
        counters: the counters to report.
        policies: the active policy, and the last one that was rejected.
        outbox: receives reports and audits, and numbers them.
        identity: the key of this device.
        freshness: the newest heartbeat of the calibrator.
        problems: returns one line for each part of the agent that does not work now.
        audit_fraction: the agent's own one, which it audits without an audit rule.
        started: monotonic seconds at which the agent started.

    """

    def __init__(
        self,
        recipient: Recipient,
        *,
        counters: Counters,
        policies: PolicySelector,
        outbox: Outbox,
        identity: DeviceIdentity,
        freshness: Freshness,
        problems: Callable[[], Sequence[str]],
        audit_fraction: float,
        started: float,
    ) -> None:
        self._audit_fraction = audit_fraction
        self._identity = identity
        self._freshness = freshness
        self._problems = problems
        self._recipient = recipient
        self._counters = counters
        self._policies = policies
        self._outbox = outbox
        self._started = started
        self._adding = threading.Lock()

    def state(self, online: bool) -> State:  # noqa: FBT001 - the only parameter
        """Return the `up/state` message."""
        policies, (revision, policy, _) = self._policies.summary, self._policies.active
        return State(
            online=online,
            bundle=self._recipient.bundle,
            cohort=self._recipient.cohort,
            start=self._outbox.start,
            uptime_s=self._uptime_s(),
            revision=revision,
            accepted=max(revision, policies.accepted),
            policy=policy.kind,
            agent=__version__,
            key=self._identity.public_key,
            rejected=policies.rejected,
            reverted=policies.reverted,
            confirmed=self._freshness.confirmed,
            unconfirmed=self._freshness.unconfirmed,
            problems=tuple(one_line(problem) for problem in self._problems())[:_MAX_PROBLEMS],
            audit_fraction=self._audit_fraction,
        )

    def add_reports(self, *, skipped: int, always: int | None = None) -> None:
        """Add a report for each revision whose counters changed, and for revision `always` in any case.

        One thread at a time: a report with a higher sequence number must not have older counters.

        Args:
            skipped: samples that were drawn for an audit but not audited.
            always: a policy revision.

        """
        with self._adding:
            for snapshot in self._counters.take_changed(always=always):
                self._outbox.add(
                    Report(
                        **self._origin(snapshot.revision),
                        uptime_s=self._uptime_s(),
                        exits=snapshot.exits,
                        failed=snapshot.failed,
                        skipped=skipped,
                    )
                )

    def add_audit(self, revision: int, samples: tuple[AuditedSample, ...]) -> None:
        """Add an audit message with samples that ran under a policy revision."""
        self._outbox.add(Audit(**self._origin(revision), samples=samples))

    def _origin(self, revision: int) -> dict[str, Any]:
        """Return the fields that reports and audits have in common; the outbox sets the sequence number."""
        return {
            "start": self._outbox.start,
            "sequence": 0,
            "bundle": self._recipient.bundle,
            "cohort": self._recipient.cohort,
            "revision": revision,
        }

    def _uptime_s(self) -> float:
        return round(time.monotonic() - self._started, 3)

"""A simulated agent: its start, its policies, its counters, and the messages that it would send."""

from typing import Final

import msgspec

from edgeexit import __version__
from edgeexit.agent.policy.check import POLICY_SLOTS, Accepted, PolicySlot, Unchanged, decide_on, slot_of
from edgeexit.policies import PolicyDocument
from edgeexit.policies.document import MAX_AUDIT_FRACTION
from edgeexit.signing import PrivateKey, public_key_text
from edgeexit.simulate.counter_table import CounterTable
from edgeexit.simulate.ledger import SentMessage, SentSeries, SentStart
from edgeexit.simulate.sample_book import PolicySamples
from edgeexit.wire import Rejection, Report, State, encode, up_topic
from edgeexit.wire.audit_signing import sign_audit
from edgeexit.wire.counter_array import Counts, exit_counters

_MAX_SAMPLES: Final = 256
"""As many audited samples as one message may contain."""


class VirtualAgent:
    """One agent that runs now, and its row of counters.

    Args:
        sent: what its start has sent; also names the device.
        row: its row in `table`.
        table: the counters of all agents.
        bundle: digest of the bundle.
        cohort: its cohort.
        key: its identity key.
        shipped: the samples under the policy of the bundle.
        audit_fraction: fraction of the samples that it audits without an audit rule.
        started: monotonic seconds.

    """

    def __init__(
        self,
        sent: SentStart,
        row: int,
        table: CounterTable,
        *,
        bundle: str,
        cohort: str,
        key: PrivateKey,
        shipped: PolicySamples,
        audit_fraction: float,
        started: float,
    ) -> None:
        self.sent = sent
        self.row = row
        self.table = table
        self.bundle = bundle
        self.cohort = cohort
        self.started = started
        self._own_audit_fraction = audit_fraction
        self.skew_s = 0.0
        """Seconds by which the uptime that it reports is wrong."""
        self.revision = 0
        self.samples = self._shipped = shipped
        self.accepted: dict[PolicySlot, Accepted] = {}
        self.rejected: Rejection | None = None
        self._key = key
        self._public_key = public_key_text(key.public_key())
        self._sequence = 0
        self._audited: list[int] = []
        self._parked: dict[int, Counts] = {}
        """Revision that is not active -> its counters."""
        address = sent.address
        self._topics = (up_topic(address, "report"), up_topic(address, "audit"))
        self.state_topic = up_topic(address, "state")

    def uptime_s(self, now: float) -> float:
        """Return the seconds since the start, as the agent believes."""
        return round(max(now - self.started + self.skew_s, 0.0), 3)

    def state(self, now: float, *, online: bool = True) -> bytes:
        """Return the payload of a state."""
        accepted = max((self.accepted[slot].revision for slot in POLICY_SLOTS if slot in self.accepted), default=0)
        return encode(
            State(
                online=online,
                start=self.sent.start,
                uptime_s=self.uptime_s(now),
                bundle=self.bundle,
                cohort=self.cohort,
                revision=self.revision,
                accepted=max(self.revision, accepted),
                policy=self.samples.kind,
                agent=__version__,
                key=self._public_key,
                rejected=self.rejected,
                audit_fraction=self._own_audit_fraction,
            )
        )

    def report(self, counts: list[int], now: float) -> SentMessage:
        """Return a report of the active revision with the counters of its row [62 K + 1]."""
        series = self.sent.series.get(self.revision)
        if series is None:
            series = self.sent.series[self.revision] = SentSeries(self.revision)
        self._sequence += 1
        report = Report(
            start=self.sent.start,
            sequence=self._sequence,
            bundle=self.bundle,
            cohort=self.cohort,
            revision=self.revision,
            uptime_s=self.uptime_s(now),
            exits=exit_counters(counts),
            failed=counts[-1],
        )
        return SentMessage(self.sent, self._sequence, self._topics[0], encode(report), series=series)

    def draw_audit(self, sample: int) -> None:
        """Audit a sample that ran under the active revision."""
        if len(self._audited) < _MAX_SAMPLES:
            self._audited.append(sample)

    def audit(self) -> SentMessage | None:
        """Return a signed audit of the samples drawn since the last one; None if there are none."""
        drawn, self._audited = self._audited, []
        encoded = [(one, self.samples.audited(one)) for one in drawn]
        found = [(one, text) for one, text in encoded if text is not None]
        if not found:
            return None
        self._sequence += 1
        content = {
            "start": self.sent.start,
            "sequence": self._sequence,
            "bundle": self.bundle,
            "cohort": self.cohort,
            "revision": self.revision,
            "samples": [msgspec.Raw(text) for _, text in found],
        }
        audit = msgspec.json.encode(content)
        payload = sign_audit(audit, topic=self._topics[1], key=self._key)
        return SentMessage(
            self.sent,
            self._sequence,
            self._topics[1],
            payload,
            samples=len(found),
            exits=sum(int(self.samples.exits[one]) for one, _ in found),
        )

    def receive(self, document: PolicyDocument | Rejection) -> bool:
        """Handle a policy whose signature was verified; return True if another policy is to be applied."""
        if isinstance(document, Rejection):
            self.rejected = document
            return False
        result = decide_on(document, self.sent.address.device, self.accepted)
        if isinstance(result, Rejection):
            self.rejected = result
            return False
        self.rejected = None
        if isinstance(result, Unchanged):
            return False
        self.accepted[slot_of(result)] = Accepted(result.revision, result)
        return self.active_document is result

    @property
    def active_document(self) -> PolicyDocument | None:
        """The document of the active policy; None: the policy of the bundle."""
        return next((self.accepted[slot].document for slot in POLICY_SLOTS if slot in self.accepted), None)

    @property
    def audit_fraction(self) -> float:
        """Fraction of the samples that it audits now."""
        document, own = self.active_document, self._own_audit_fraction
        rule = None if document is None else document.audit
        return own if rule is None else rule.fraction_for(own=own, limit=MAX_AUDIT_FRACTION)

    def apply(self, revision: int, samples: PolicySamples) -> None:
        """Run under another policy from now on. What was drawn for an audit must have been sent."""
        counts = self.table.counts
        if revision != self.revision:
            self._parked[self.revision] = counts[self.row].copy()
            counts[self.row] = self._parked.pop(revision, 0)
            self.revision = revision
        self.samples = samples

    def restart(self, sent: SentStart, now: float) -> None:
        """Begin a new start: counters from 0, policies kept."""
        self.sent = sent
        self.started = now
        self.skew_s = 0.0
        self._sequence = 0
        self._audited = []
        self._parked = {}
        self.table.counts[self.row] = 0

"""Writes down what the simulated agents sent and what the calibrator answered, in memory that does not grow with it.

Of a series of reports the ledger holds the newest counters, of the audits of a start sums over those that are
acknowledged, and of each message only what is not acknowledged yet.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Literal

from edgeexit.simulate.ack_delays import AckDelays
from edgeexit.wire import Ack, DeviceAddress

Role = Literal["device", "clone"]
"""Whose messages these are: an agent with a name of its own, or one of two that share a name."""
_MAX_REASONS: Final = 50
_OTHER_REASONS: Final = "other reasons"


class SentSeries:
    """The reports of one (start, revision)."""

    __slots__ = ("acked", "acked_payload", "newest", "revision", "waiting")

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.newest = 0
        """Highest sequence number that was sent."""
        self.acked = 0
        """Highest sequence number that was acknowledged; 0: none."""
        self.acked_payload = b""
        self.waiting = 0
        """Messages that are not answered."""


class AuditSums:
    """Sums over audits, by which a lost, double or changed one is noticed."""

    __slots__ = ("audits", "exits", "samples", "sequences")

    def __init__(self) -> None:
        self.audits = 0
        self.sequences = 0
        """Sum of the sequence numbers."""
        self.samples = 0
        self.exits = 0
        """Sum over the samples of the index of the exit."""


class SentStart:
    """What one start of an agent has sent."""

    __slots__ = ("address", "audits", "pending", "role", "series", "start")

    def __init__(self, address: DeviceAddress, start: str, role: Role) -> None:
        self.address = address
        self.start = start
        self.role: Role = role
        self.series: dict[int, SentSeries] = {}
        self.audits = AuditSums()
        """Audits that are acknowledged."""
        self.pending: dict[int, SentMessage] = {}
        """Sequence number -> message that is not acknowledged."""


class SentMessage:
    """A report or an audit that is not acknowledged."""

    __slots__ = (
        "copies", "exits", "first_sent", "held", "last_sent", "on_wire", "owner", "payload", "rejected_by_broker",
        "samples", "sequence", "series", "topic",
    )  # fmt: skip

    def __init__(
        self,
        owner: SentStart,
        sequence: int,
        topic: str,
        payload: bytes,
        *,
        series: SentSeries | None = None,
        samples: int = 0,
        exits: int = 0,
    ) -> None:
        self.owner = owner
        self.sequence = sequence
        self.topic = topic
        self.payload = payload
        self.series = series
        """The series of a report; None for an audit."""
        self.samples = samples
        self.exits = exits
        self.first_sent = self.last_sent = 0.0
        """Monotonic seconds; 0: not sent yet."""
        self.copies = 0
        self.on_wire = False
        """True until the broker has answered the newest copy."""
        self.rejected_by_broker = False
        """True if the broker answered the newest copy with an error."""
        self.held = False
        """True after a refusal that is not final: the agent waits much longer than this run takes."""

    def answered(self, taken: bool) -> None:  # noqa: FBT001 - a callback
        """Handle a PUBACK; the calibrator has not answered yet."""
        self.on_wire = False
        self.rejected_by_broker = not taken


class Ledger:
    """All messages of a run.

    Args:
        clock: returns monotonic seconds.

    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.starts: dict[str, SentStart] = {}
        self.unanswered: dict[SentMessage, None] = {}
        """Messages that wait for an answer, in the order in which they were sent last."""
        self.reports = 0
        """Reports that were sent, without copies."""
        self.audits = 0
        self.audited_samples = 0
        self.copies = 0
        """Messages that were sent again."""
        self.states = 0
        self.acked_reports = 0
        self.acked_audits = 0
        self.superseded = 0
        """Reports that agents deleted, because a newer one of the series was acknowledged."""
        self.refused: Counter[str] = Counter()
        """Reason of a final refusal -> messages."""
        self.held: Counter[str] = Counter()
        """Reason of a refusal that is not final -> messages that still wait because of it."""
        self.delays = AckDelays()
        self.first_ack = self.last_ack = 0.0
        """Monotonic seconds of acknowledgements of reports since `begin_measurement`."""
        self.acked_before = 0
        """Reports that were acknowledged before."""

    def begin_measurement(self) -> None:
        """Measure delays and rates from now on."""
        self.delays = AckDelays()
        self.first_ack = self.last_ack = 0.0
        self.acked_before = self.acked_reports

    def open_start(self, address: DeviceAddress, start: str, role: Role = "device") -> SentStart:
        """Add a start of an agent."""
        opened = self.starts[start] = SentStart(address, start, role)
        return opened

    def add(self, message: SentMessage) -> None:
        """Write down a message that an agent will send."""
        message.owner.pending[message.sequence] = message
        self.unanswered[message] = None
        if message.series is None:
            self.audits += 1
            self.audited_samples += message.samples
        else:
            self.reports += 1
            series = message.series
            series.newest = message.sequence
            series.waiting += 1

    def sent(self, message: SentMessage, now: float) -> None:
        """Write down that a message was given to the connection."""
        if message.copies:
            self.copies += 1
            self.unanswered.pop(message, None)
            self.unanswered[message] = None
        else:
            message.first_sent = now
        message.copies += 1
        message.last_sent = now
        message.on_wire = True

    def acknowledge(self, ack: Ack) -> None:
        """Write down an acknowledgement of the calibrator. Unknown starts and numbers are ignored."""
        owner = self.starts.get(ack.start)
        if owner is None:
            return
        now = self._clock()
        for sequence in ack.sequences:
            message = owner.pending.get(sequence)
            if message is None:
                continue
            self._remove(message)
            self.delays.add(now - message.first_sent)
            if message.series is None:
                self._count_audit(owner.audits, message)
            else:
                self._count_report(owner, message.series, message, now)
        for refusal in ack.refused:
            message = owner.pending.get(refusal.sequence)
            if message is None:
                continue
            if refusal.final:
                self._remove(message)
                self._count_reason(self.refused, refusal.reason)
            else:
                self._hold(message, refusal.reason)

    @property
    def waiting(self) -> int:
        """Number of messages that wait for an answer, without those that were refused for now."""
        return len(self.unanswered)

    def due(self, before: float) -> Iterator[SentMessage]:
        """Yield the messages that were sent last before a moment, have a PUBACK, and are not answered."""
        found = []
        for message in self.unanswered:
            if message.last_sent >= before:
                break
            if message.copies and not message.on_wire:
                found.append(message)
        return iter(found)

    def _count_report(self, owner: SentStart, series: SentSeries, message: SentMessage, now: float) -> None:
        self.acked_reports += 1
        self.first_ack = self.first_ack or now
        self.last_ack = now
        if message.sequence > series.acked:
            series.acked, series.acked_payload = message.sequence, message.payload
        if series.waiting:
            older = [one for one in owner.pending.values() if one.series is series and one.sequence < message.sequence]
            for one in older:
                self._remove(one)
                self.superseded += 1

    def _count_audit(self, sums: AuditSums, message: SentMessage) -> None:
        self.acked_audits += 1
        sums.audits += 1
        sums.sequences += message.sequence
        sums.samples += message.samples
        sums.exits += message.exits

    def _remove(self, message: SentMessage) -> None:
        del message.owner.pending[message.sequence]
        self.unanswered.pop(message, None)
        if message.series is not None:
            message.series.waiting -= 1

    def _hold(self, message: SentMessage, reason: str) -> None:
        if not message.held and message.sequence in message.owner.pending:
            message.held = True
            self.unanswered.pop(message, None)
            self._count_reason(self.held, reason)

    def _count_reason(self, reasons: Counter[str], reason: str) -> None:
        reasons[reason if reason in reasons or len(reasons) < _MAX_REASONS else _OTHER_REASONS] += 1

"""Decides which messages of one kind are sent next, and when a message is sent again.

There is at most one unfinished copy of a message: it is sent again when the connection that carried the copy has ended,
or when the broker has had it for some time (PUBACK) and the calibrator has not acknowledged it. This time doubles with
every copy.
"""

import math
import random
from collections.abc import Callable, Iterable
from typing import Final

from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.agent.outbox.rows import OutboxEntry, OutboxKind
from edgeexit.wire import Publication

WINDOW: Final = 32
"""Maximum number of messages in flight: the broker or the calibrator has not acknowledged them, and is not late."""
_MAX_WAITING: Final = 1024
"""Maximum number of messages that the broker has taken and the calibrator has not acknowledged."""
_MAX_PAUSE_S: Final = 3600.0
_POSTPONED_S: Final = 900.0
"""First pause after a refusal that is not final."""
_PUBACK_S: Final = 120.0
_MIN_BYTES_PER_S: Final = 256
"""A PUBACK is overdue after `_PUBACK_S` and the time that the message needs at this rate."""
_MIN_SUSPECT_BYTES: Final = 4096
_SUSPECT_ENDS: Final = 2
"""A message that was unfinished when this many connections ended is a suspect: sent last and alone."""
_TOO_LARGE_ENDS: Final = 3
"""After this many, the broker probably refuses messages of this size, and ends the connection without a reason. When
this is known, one end is enough for a size between the smallest refused one and the largest that was taken."""


class _InFlight:
    """A message that is to be sent, or was sent, and that the calibrator has not acknowledged."""

    __slots__ = ("copies", "due", "ends", "entry", "postponed", "publication", "sent_at", "silence", "slot_until")

    def __init__(self, entry: OutboxEntry) -> None:
        self.entry = entry
        self.publication: Publication | None = None
        """The unfinished copy, if any."""
        self.sent_at = 0.0
        self.copies = 0
        """Copies that the broker has taken."""
        self.silence: int | None = None
        """Number of silent windows before the broker took the message; None: it must be sent, or sent again."""
        self.postponed = False
        """True if the calibrator, or the broker, does not take the message yet."""
        self.ends = 0
        """Connections that ended while a copy was unfinished."""
        self.slot_until = 0.0
        """Time until which the message counts as in flight, although no copy is unfinished."""
        self.due = 0.0
        """Time from which the message is sent again."""


class SendWindow:
    """Limits how many messages of one kind are in flight, at a cost that does not grow with the size of the outbox.

    First come messages whose connection has ended, then those that were never sent, in the order of the outbox, and
    then those that the calibrator has not acknowledged in time, so that none of them blocks the others. While the
    calibrator acknowledges nothing, the pause between two windows doubles, up to an hour. Its first acknowledgement
    after such a silence makes all messages due again. Times are monotonic seconds.

    Messages are sent only when the connection has shown that it works. So if it ends while a large message is
    unfinished, again and again, the broker probably does not take messages of this size.

    Args:
        outbox: the messages to deliver.
        kind: the kind of the messages to send.
        resend_s: seconds after which a message that the broker has, but not the calibrator, is sent again.
        jitter: returns a factor for each pause, so that the devices of a fleet do not send at the same time.

    """

    def __init__(
        self,
        outbox: Outbox,
        kind: OutboxKind,
        *,
        resend_s: float,
        jitter: Callable[[], float] = lambda: random.uniform(1.0, 1.25),  # noqa: S311 - not cryptography
    ) -> None:
        self.kind: Final = kind
        self._outbox = outbox
        self._resend_s = resend_s
        self._jitter = jitter
        self._sent: dict[int, _InFlight] = {}
        self._last = 0
        """Id of the newest message in the window."""
        self._silence = 0
        """Windows in a row of which the calibrator has acknowledged nothing."""
        self._acknowledged_at = -math.inf
        self._too_large = math.inf
        """Messages of about this size, or larger, have ended connections."""
        self._largest_taken = 0
        """Size of the largest message that the broker has taken, below `_too_large`."""
        self._given_up: list[Publication] = []
        """Copies without PUBACK that are not waited for any more, while their connection lasts."""

    @property
    def unfinished(self) -> bool:
        """True if the broker has not acknowledged everything that was sent."""
        return any(sent.publication is not None for sent in self._sent.values())

    @property
    def given_up_bytes(self) -> int:
        """Bytes that the connection counts as unacknowledged although their PUBACK is not expected any more."""
        return sum(one.size for one in self._given_up if not one.done)

    def update(self, now: float) -> None:
        """Take over what has become of the publications since the last call."""
        self._given_up = [one for one in self._given_up if not one.done]
        for identifier, sent in list(self._sent.items()):
            if self._outbox.get(identifier) is None:
                del self._sent[identifier]
            elif sent.publication is not None:
                self._update_publication(sent, sent.publication, now)
            elif sent.silence is not None and now >= sent.slot_until and self._acknowledged_at < sent.sent_at:
                self._silence = max(self._silence, sent.silence + 1)

    def due(self, now: float) -> list[OutboxEntry]:
        """Return the messages to send now, in order; the caller calls `sent` for each one that it sends."""
        idle = [one for one in self._sent.values() if one.publication is None]
        room = WINDOW - (len(self._sent) - len(idle)) - sum(now < one.slot_until for one in idle)
        if room <= 0:
            return []
        idle = [one for one in idle if now >= one.due and self._outbox.get(one.entry.id) is not None]
        unsent = [one.entry for one in idle if one.silence is None and not self.is_suspect(one.entry)]
        unsent = sorted(unsent) + self._admit(room - len(unsent))
        late = sorted((one.due, one.entry) for one in idle if one.silence is not None)
        return [*unsent, *(entry for _, entry in late if not self.is_suspect(entry))][:room]

    def suspects(self) -> list[OutboxEntry]:
        """Return the messages that may end the connection; each one is split, or sent last and alone when it is due."""
        idle = [one.entry for one in self._sent.values() if one.publication is None]
        return [entry for entry in idle if self.is_suspect(entry) and self._outbox.get(entry.id) is not None]

    def is_due(self, entry: OutboxEntry, now: float) -> bool:
        """Return True if the message may be sent now."""
        sent = self._sent.get(entry.id)
        return sent is None or now >= sent.due

    def publication(self, entry: OutboxEntry) -> Publication | None:
        """Return the unfinished copy of a message, or None."""
        sent = self._sent.get(entry.id)
        return None if sent is None else sent.publication

    def is_suspect(self, entry: OutboxEntry) -> bool:
        """Return True if the message, or one of its size, was unfinished when connections ended."""
        sent = self._sent.get(entry.id)
        unknown = entry.size > max(self._largest_taken, _MIN_SUSPECT_BYTES) and self._too_large < math.inf
        return unknown or self.is_too_large(entry) or (sent is not None and sent.ends >= _SUSPECT_ENDS)

    def is_too_large(self, entry: OutboxEntry) -> bool:
        """Return True if the broker seems to refuse messages of this size."""
        return entry.size >= self._too_large

    def sent(self, entry: OutboxEntry, publication: Publication, now: float) -> None:
        """Record that a message was given to the connection."""
        sent = self._sent[entry.id]
        sent.publication, sent.sent_at = publication, now

    def acknowledged(self, identifiers: Iterable[int], now: float) -> None:
        """Record that the calibrator has acknowledged messages, of this window or of another one.

        Messages of a silent time become due again, and so do those that it did not take yet if it took one of the kind.
        """
        self._acknowledged_at = now
        silent, self._silence = self._silence > 0, 0
        taken = any(identifier in self._sent for identifier in identifiers)
        for sent in self._sent.values():
            if sent.silence is not None and silent:
                sent.due = min(sent.due, now + self._resend_s * (self._jitter() - 1.0))
            elif sent.postponed and taken:
                sent.due = min(sent.due, sent.sent_at + self._pause(self._resend_s, sent.copies))
            sent.slot_until = min(sent.slot_until, sent.due)

    def postpone(self, identifiers: Iterable[int], now: float) -> None:
        """Wait long before messages are sent again that the calibrator does not take yet."""
        for identifier in identifiers:
            if (sent := self._sent.get(identifier)) is not None:
                if sent.publication is None:
                    sent.copies = max(sent.copies - 1, 0)  # the copy was counted with its PUBACK
                self._postpone(sent, now)

    def next_at(self, now: float) -> float:
        """Return the time at which `update` or `due` have something to do again, without a report of the session."""
        times = []
        for sent in self._sent.values():
            if sent.publication is not None:
                times.append(max(self._puback_at(sent), now + _PUBACK_S / 4))
            else:
                times += [time for time in (sent.slot_until, sent.due) if time > now]
        return min(times, default=math.inf)

    def _admit(self, number: int) -> list[OutboxEntry]:
        """Take messages from the outbox into the window; return those that are no suspects, at most `number`."""
        admitted: list[OutboxEntry] = []
        while len(admitted) < number and len(self._sent) < _MAX_WAITING:
            entries = self._outbox.pending(self.kind, after=self._last, limit=number - len(admitted))
            if not entries:
                break
            for entry in entries:
                self._last = entry.id
                self._sent[entry.id] = _InFlight(entry)
                if not self.is_suspect(entry):
                    admitted.append(entry)
        return admitted

    def _update_publication(self, sent: _InFlight, publication: Publication, now: float) -> None:
        if publication.acked:
            sent.ends = 0
            self._largest_taken = max(self._largest_taken, sent.entry.size)
            if sent.entry.size >= self._too_large:
                self._too_large = math.inf
            self._wait(sent, now, self._resend_s)
        elif publication.refused is not None:
            self._postpone(sent, now)
        elif publication.ended:
            sent.publication, sent.silence, sent.due = None, None, now
            if sent.entry.size >= _MIN_SUSPECT_BYTES:
                sent.ends += 1
                if sent.ends >= _TOO_LARGE_ENDS or self._too_large < math.inf:
                    # Splitting costs little, and another end of the connection costs minutes: leave a margin.
                    self._too_large = min(self._too_large, sent.entry.size * 3 // 4)
                    self._largest_taken = min(self._largest_taken, sent.entry.size * 3 // 4)
                    sent.due = now + self._pause(self._resend_s, sent.ends)
        elif publication.written and now >= self._puback_at(sent):  # the broker has lost it
            self._given_up.append(publication)
            self._wait(sent, now, 0.0)

    def _wait(self, sent: _InFlight, now: float, seconds: float) -> None:
        """Wait until the message is sent again; the pause doubles with every copy."""
        sent.publication, sent.silence, sent.postponed = None, self._silence, False
        sent.slot_until = now + self._pause(seconds, self._silence)
        sent.due = max(now + self._pause(seconds, sent.copies), sent.slot_until)
        sent.copies += 1

    def _postpone(self, sent: _InFlight, now: float) -> None:
        """Wait long: other messages would probably not be taken either, so this one counts as in flight."""
        self._wait(sent, now, _POSTPONED_S)
        sent.postponed, sent.slot_until = True, sent.due

    def _pause(self, seconds: float, doublings: int) -> float:
        return min(seconds * 2.0 ** min(doublings, 30), _MAX_PAUSE_S) * self._jitter()

    def _puback_at(self, sent: _InFlight) -> float:
        seconds = (_PUBACK_S + sent.entry.size / _MIN_BYTES_PER_S) * 2.0 ** min(sent.copies, 5)
        return sent.sent_at + min(seconds, _MAX_PAUSE_S)

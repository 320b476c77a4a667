"""Decides which messages of one kind are sent next, and when a message is sent again.

There is at most one unfinished copy of a message: it is sent again when the connection that carried the copy has ended,
or when the broker has had it for some time (PUBACK) and the calibrator has not acknowledged it. This time doubles with
every copy.
"""

import math
import random
from collections.abc import Callable, Iterable
from typing import Final

from edgeexit.agent.outbox import Outbox
from edgeexit.agent.outbox_rows import OutboxEntry, OutboxKind
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
"""A message that was unfinished when this many working connections ended is a suspect: sent last and alone."""
_TOO_LARGE_ENDS: Final = 4
"""After this many, the broker probably refuses messages of this size, and ends the connection without a reason."""


class _InFlight:
    """A message that has been sent, and that the calibrator has not acknowledged."""

    __slots__ = ("copies", "due", "ends", "entry", "postponed", "publication", "sent_at", "silence", "slot_until")

    def __init__(self, entry: OutboxEntry) -> None:
        self.entry = entry
        self.publication: Publication | None = None
        """The unfinished copy, if any."""
        self.sent_at = 0.0
        self.copies = 0
        """Copies that the broker has taken."""
        self.silence: int | None = None
        """Number of silent windows before the broker took the message; None: the message must be sent again."""
        self.postponed = False
        """True if the calibrator, or the broker, does not take the message yet."""
        self.ends = 0
        """Connections that worked and ended while a copy was unfinished."""
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
        """Id of the newest message that was sent."""
        self._silence = 0
        """Windows in a row of which the calibrator has acknowledged nothing."""
        self._acknowledged_at = -math.inf
        self._max_bytes = math.inf
        """Messages of this size, or larger, have ended connections."""

    @property
    def unfinished(self) -> bool:
        """True if the broker has not acknowledged everything that was sent."""
        return any(sent.publication is not None for sent in self._sent.values())

    def update(self, now: float, *, worked: bool) -> None:
        """Take over what has become of the publications since the last call.

        `worked` is True if the broker has acknowledged something on the newest connection.
        """
        for identifier, sent in list(self._sent.items()):
            if self._outbox.get(identifier) is None:
                del self._sent[identifier]
            elif sent.publication is not None:
                self._update_publication(sent, sent.publication, now, worked=worked)
            elif sent.silence is not None and now >= sent.slot_until and self._acknowledged_at < sent.sent_at:
                self._silence = max(self._silence, sent.silence + 1)

    def due(self, now: float) -> list[OutboxEntry]:
        """Return the messages to send now, in order; the caller calls `sent` for each one that it sends."""
        idle = [one for one in self._sent.values() if one.publication is None and self._outbox.get(one.entry.id)]
        room = (
            WINDOW
            - sum(one.publication is not None for one in self._sent.values())
            - sum(now < one.slot_until for one in idle)
        )
        if room <= 0:
            return []
        ended = sorted(one.entry for one in idle if one.silence is None and now >= one.due)
        late = sorted((one.due, one.entry) for one in idle if one.silence is not None and now >= one.due)
        fresh = self._outbox.pending(self.kind, after=self._last, limit=min(room, _MAX_WAITING - len(self._sent)))
        return [entry for entry in (*ended, *fresh, *(entry for _, entry in late)) if not self.is_suspect(entry)][:room]

    def suspects(self, now: float) -> list[OutboxEntry]:
        """Return the messages that may end the connection and are due; each one is sent last and alone."""
        due = [one.entry for one in self._sent.values() if one.publication is None and now >= one.due]
        fresh = self._outbox.pending(self.kind, after=self._last, limit=1)
        return [entry for entry in (*due, *fresh) if self.is_suspect(entry) and self._outbox.get(entry.id)]

    def publication(self, entry: OutboxEntry) -> Publication | None:
        """Return the unfinished copy of a message, or None."""
        sent = self._sent.get(entry.id)
        return None if sent is None else sent.publication

    def is_suspect(self, entry: OutboxEntry) -> bool:
        """Return True if the message, or one of its size, was unfinished when connections ended."""
        sent = self._sent.get(entry.id)
        return entry.size >= self._max_bytes or (sent is not None and sent.ends >= _SUSPECT_ENDS)

    def is_too_large(self, entry: OutboxEntry) -> bool:
        """Return True if the broker seems to refuse messages of this size."""
        return entry.size >= self._max_bytes

    def sent(self, entry: OutboxEntry, publication: Publication, now: float) -> None:
        """Record that a message was given to the connection."""
        sent = self._sent.setdefault(entry.id, _InFlight(entry))
        sent.publication, sent.sent_at = publication, now
        self._last = max(self._last, entry.id)

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

    def _update_publication(self, sent: _InFlight, publication: Publication, now: float, *, worked: bool) -> None:
        if publication.acked:
            sent.ends = 0
            if sent.entry.size >= self._max_bytes:
                self._max_bytes = math.inf
            self._wait(sent, now, self._resend_s)
        elif publication.refused is not None:
            self._postpone(sent, now)
        elif publication.ended:
            sent.publication, sent.silence, sent.due = None, None, now
            if worked and sent.entry.size >= _MIN_SUSPECT_BYTES:
                sent.ends += 1
                if sent.ends >= _TOO_LARGE_ENDS:
                    self._max_bytes = min(self._max_bytes, sent.entry.size)
                    sent.due = now + self._pause(self._resend_s, sent.ends - _TOO_LARGE_ENDS)
        elif publication.written and now >= self._puback_at(sent):  # the broker has lost it
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
        return min(seconds * 2 ** min(doublings, 30), _MAX_PAUSE_S) * self._jitter()

    def _puback_at(self, sent: _InFlight) -> float:
        seconds = (_PUBACK_S + sent.entry.size / _MIN_BYTES_PER_S) * 2 ** min(sent.copies, 5)
        return sent.sent_at + min(seconds, _MAX_PAUSE_S)

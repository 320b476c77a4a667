"""Decides which messages of one kind are sent next, and when an unacknowledged message is sent again."""

import math
from typing import Final

from edgeexit.agent.outbox import Outbox, OutboxKind

WINDOW: Final = 32
"""Messages sent but not acknowledged at a time, so that an absent calibrator does not fill the connection."""


class SendWindow:
    """Reads at most `WINDOW` messages at a time, however many the outbox holds.

    Messages are sent in the order of the outbox, and from its beginning again at its end, so that messages that are
    never acknowledged do not block the others. Times are monotonic seconds.

    Args:
        outbox: the messages to deliver.
        kind: which of its messages.
        resend_s: seconds after which an unacknowledged message may be sent again.

    """

    def __init__(self, outbox: Outbox, kind: OutboxKind, *, resend_s: float) -> None:
        self.kind: Final = kind
        self._outbox = outbox
        self._resend_s = resend_s
        self._sent_at: dict[int, float] = {}
        self._last = 0

    def due(self, now: float) -> list[int]:
        """Return the sequence numbers to send now, in order; the caller calls `sent` for each message it sends."""
        self._sent_at = {
            sequence: moment
            for sequence, moment in self._sent_at.items()
            if now - moment < self._resend_s and self._outbox.holds(sequence)
        }
        room = WINDOW - len(self._sent_at)
        if not room:
            return []
        candidates = self._outbox.pending(self.kind, after=self._last, limit=WINDOW)
        if len(candidates) < WINDOW:
            candidates += self._outbox.pending(self.kind, limit=WINDOW)
        return [sequence for sequence in dict.fromkeys(candidates) if sequence not in self._sent_at][:room]

    def sent(self, sequence: int, now: float) -> None:
        """Record that a message was sent."""
        self._sent_at[sequence] = now
        self._last = sequence

    def connection_lost(self) -> None:
        """Treat all messages as not sent, because the connection that carried them was lost."""
        self._sent_at.clear()

    def resend_due(self) -> float:
        """Return when the first unacknowledged message may be sent again; infinity if there is none."""
        return min(self._sent_at.values(), default=math.inf) + self._resend_s

"""Decides which messages of one kind are sent next, and when an unacknowledged message is sent again."""

import math
from typing import Final

from edgeexit.agent.outbox import Outbox, OutboxKind

WINDOW: Final = 32
"""Maximum number of messages in flight: sent less than `resend_s` ago, and not acknowledged."""


class SendWindow:
    """Limits how many messages of one kind are in flight, at a cost that does not grow with the size of the outbox.

    Messages are sent in the order of their sequence numbers. After the last message the window starts again with the
    first, so that messages that are never acknowledged do not block the others. Times are monotonic seconds.

    Args:
        outbox: the messages to deliver.
        kind: the kind of the messages to send.
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
            sequence: sent_at
            for sequence, sent_at in self._sent_at.items()
            if now - sent_at < self._resend_s and self._outbox.holds(sequence)
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
        """Return the time at which the first unacknowledged message may be sent again; infinity if there is none."""
        return min(self._sent_at.values(), default=math.inf) + self._resend_s

"""Messages of one kind that are under way to the calibrator: which go next, and when one goes again."""

import math
from typing import Final

from edgeexit.agent.outbox import Kind, Outbox

WINDOW: Final = 32
"""Messages under way at a time, so that a calibrator that is away does not fill the line."""


class Window:
    """Looks at as many messages as can be under way, however many wait in the outbox.

    The outbox is gone through in its order, and again from the beginning at its end, so that messages that nobody
    acknowledges do not hold up the others. Times are monotonic seconds.

    Args:
        outbox: what has to arrive.
        kind: which of its messages.
        resend_s: what is not acknowledged after this long may go again.

    """

    def __init__(self, outbox: Outbox, kind: Kind, *, resend_s: float) -> None:
        self.kind: Final = kind
        self._outbox = outbox
        self._resend_s = resend_s
        self._sent_at: dict[int, float] = {}
        self._last = 0

    def due(self, now: float) -> list[int]:
        """Return the sequences to send now, in order; tell `sent` of each that went."""
        self._sent_at = {
            sequence: moment
            for sequence, moment in self._sent_at.items()
            if now - moment < self._resend_s and self._outbox.holds(sequence)
        }
        room = WINDOW - len(self._sent_at)
        if not room:
            return []
        ahead = self._outbox.waiting(self.kind, after=self._last, limit=WINDOW)
        if len(ahead) < WINDOW:
            ahead += self._outbox.waiting(self.kind, limit=WINDOW)
        return [sequence for sequence in dict.fromkeys(ahead) if sequence not in self._sent_at][:room]

    def sent(self, sequence: int, now: float) -> None:
        """Take a message as under way."""
        self._sent_at[sequence] = now
        self._last = sequence

    def lost(self) -> None:
        """Take nothing as under way: the connection that it went by is gone."""
        self._sent_at.clear()

    def resend_due(self) -> float:
        """Return when the first of the messages under way may go again, or infinity."""
        return min(self._sent_at.values(), default=math.inf) + self._resend_s

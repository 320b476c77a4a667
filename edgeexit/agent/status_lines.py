"""Decides when the status of a running agent is worth a line in its log, which nobody may ever delete."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_INTERVAL_S: Final = 3600.0
_MIN_INTERVAL_S: Final = 600.0
_TERMINAL_INTERVAL_S: Final = 10.0


class StatusLines:
    """A line at the start, when something has changed (at most every 10 minutes), and every hour.

    Args:
        on_terminal: True if a person watches: a line every 10 seconds.
        clock: returns monotonic seconds.

    """

    def __init__(self, *, on_terminal: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = _TERMINAL_INTERVAL_S if on_terminal else _INTERVAL_S
        self._clock = clock
        self._last_s: float | None = None
        self._facts: Hashable = None

    def is_due(self, facts: Hashable) -> bool:
        """Return True if the status must be logged now; `facts` are those whose change is worth a line."""
        now = self._clock()
        if self._last_s is not None:
            min_interval_s = self._interval_s if facts == self._facts else min(_MIN_INTERVAL_S, self._interval_s)
            if now - self._last_s < min_interval_s:
                return False
        self._last_s, self._facts = now, facts
        return True

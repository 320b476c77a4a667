"""Recognises two running agents with one device name, e.g. on cloned memory cards. Pure functions, no I/O.

Every start of an agent has a random name, and its states contain the time since that start. After a restart, the old
start never publishes a state again: its states end where those of the new start begin. If a start publishes a newer
state after another start has published one, both are running.

Only live states count. A retained state and the will of a connection may come from an agent that has ended. A new start
sends the reports and audits of earlier starts from its outbox, so these are no evidence either. A state that the broker
delivers twice has an uptime that is already known.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

_MAX_STARTS: Final = 8
"""An agent that restarts more often between two states of its clone hides the clone until it runs longer."""


class StartsSeen(NamedTuple):
    """The starts of a device after one more state."""

    starts: dict[str, float]
    """Start -> highest uptime in seconds; the start of the newest state is the last one."""
    clones: tuple[str, str] | None
    """The two starts that run at the same time, or None."""


def see_start(seen: Mapping[str, float], start: str, uptime_s: float) -> StartsSeen:
    """Return the starts of a device after a live state of `start`, with its uptime."""
    starts = dict(seen)
    known_s = starts.get(start)
    if known_s is not None and uptime_s <= known_s:
        return StartsSeen(starts, None)  # delivered again
    newest = next(reversed(starts), None)
    starts.pop(start, None)
    starts[start] = uptime_s  # the last one
    while len(starts) > _MAX_STARTS:
        del starts[next(iter(starts))]
    if known_s is not None and newest is not None and newest != start:
        return StartsSeen(starts, (newest, start))
    return StartsSeen(starts, None)

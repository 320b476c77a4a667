"""Combines the sources of information on whether a machine is throttled."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from edgeexit.telemetry.sysfs import read_number


class ThrottleStatus(NamedTuple):
    """The status that one source reports, e.g. the thermal zones or an event counter."""

    known: bool
    """Whether the source can detect throttling on this machine."""
    reasons: tuple[str, ...] = ()


def combine(sources: Iterable[ThrottleStatus]) -> tuple[bool | None, tuple[str, ...]]:
    """Return whether any source reports throttling (None if no source can detect it), and all reasons."""
    statuses = tuple(sources)
    reasons = tuple(dict.fromkeys(reason for status in statuses for reason in status.reasons))
    if reasons:
        return True, reasons
    return (False if any(status.known for status in statuses) else None), ()


class ThrottleCounters:
    """Event counters in files, e.g. of throttling, of which the increases are read."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._previous: dict[str, float] = {}

    def new_events(self) -> dict[str, int]:
        """Return name -> number of events since the previous call, without counters that cannot be read.

        All numbers are 0 in the first call. A counter that decreased was reset, so it counts from 0.
        """
        found = {}
        for name, path in self._files.items():
            now = read_number(path, low=0)
            if now is not None:
                previous = self._previous.get(name, now)
                found[name] = int(now - previous if now >= previous else now)
                self._previous[name] = now
        return found

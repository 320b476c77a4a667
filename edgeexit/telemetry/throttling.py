"""Whether a machine held itself back: what its sources say, put together."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from edgeexit.telemetry.sysfs import read_number


class ThrottleStatus(NamedTuple):
    """What one source says."""

    known: bool
    """Whether the source can tell at all."""
    reasons: tuple[str, ...] = ()


def weigh(sources: Iterable[ThrottleStatus]) -> tuple[bool | None, tuple[str, ...]]:
    """Return whether anything speaks for throttling, None where no source can tell, and what does."""
    every = tuple(sources)
    reasons = tuple(dict.fromkeys(reason for source in every for reason in source.reasons))
    if reasons:
        return True, reasons
    return (False if any(source.known for source in every) else None), ()


class ThrottleCounters:
    """Counters of events in files: how far each went up since it was read last."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._before: dict[str, float] = {}

    def take(self) -> dict[str, int]:
        """Return by name how many events there were since the last call; a counter that cannot be read is left out.

        At the first call, all 0. One that went down was started anew, and counts from 0.
        """
        found = {}
        for name, path in self._files.items():
            now = read_number(path, low=0)
            if now is not None:
                before = self._before.get(name, now)
                found[name] = int(now - before if now >= before else now)
                self._before[name] = now
        return found

"""A histogram of times from sending to acknowledgement, in constant memory."""

import math
from typing import Final

_SHORTEST_S: Final = 1e-5
_BINS_PER_E: Final = 50
"""Bins are 2 % wide."""


class AckDelays:
    """Collects times; percentiles are exact to 2 %."""

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self.count = 0

    def add(self, seconds: float) -> None:
        """Add a time."""
        index = int(math.log(max(seconds, _SHORTEST_S)) * _BINS_PER_E)
        self._bins[index] = self._bins.get(index, 0) + 1
        self.count += 1

    def percentile(self, percent: float) -> float | None:
        """Return a percentile in s; None if there are no times."""
        rest = self.count * percent / 100
        for index in sorted(self._bins):
            rest -= self._bins[index]
            if rest <= 0:
                return math.exp(index / _BINS_PER_E)
        return None

"""Which audits of a cohort are used: from one device not many more than from the others.

A device that sends most of the audits, in good faith or not, would otherwise hide what the others see. The choice
depends on the devices only, and not on the losses, and it is the same for the certificates and for the alarm. So the
risk that is guaranteed is that of a sample of the cohort in which no device has more than its share.
"""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

_MAX_SHARE: Final = 0.05
_FAIR_MULTIPLE: Final = 2
"""A device has at most `_MAX_SHARE` of the used audits or this multiple of its fair share, whichever is more."""
_MIN_LIMIT: Final = 25
"""Audits that are always used from a device."""


class FairShare(msgspec.Struct, frozen=True, kw_only=True):
    """How many audits of each device were used; empty at first."""

    used: dict[int, int] = {}
    """Device id -> number of its used audits."""

    def select(self, devices: npt.NDArray[np.int64]) -> tuple["FairShare", npt.NDArray[np.bool_]]:
        """Return the state after audits of `devices` [n], and which of these audits [n] are used."""
        used, total = dict(self.used), sum(self.used.values())
        selected = np.ones(len(devices), dtype=np.bool_)
        for place, device in enumerate(devices.tolist()):
            count = used.setdefault(device, 0) + 1
            share = max(_MAX_SHARE, _FAIR_MULTIPLE / len(used))
            if count > max(_MIN_LIMIT, share * (total + 1)):
                selected[place] = False
            else:
                used[device] = count
                total += 1
        return FairShare(used=used), selected

"""How many audits each device has sent, and how many of all audits a few devices can have forged."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt


class DeviceCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of audits of devices, for `tolerated` devices that may forge theirs; empty if there are none."""

    tolerated: int
    counts: dict[int, int] = {}
    """Device id -> number of its audits."""
    most: tuple[int, ...] = ()
    """Ids of at most `tolerated` devices with the most audits."""

    def counted(self, devices: Sequence[int]) -> tuple["DeviceCounts", npt.NDArray[np.int64]]:
        """Return the counts with further audits, from `devices` [n], and the discounts [n].

        The discount of an audit is how many of the audits so far, with this one, the tolerated devices can have forged:
        the number of those of the devices with the most audits.
        """
        discounts = np.zeros(len(devices), dtype=np.int64)
        if not self.tolerated:
            return self, discounts
        counts, most = dict(self.counts), set(self.most)
        discount = sum(counts[device] for device in most)
        for place, device in enumerate(devices):
            count = counts[device] = counts.get(device, 0) + 1
            if device in most:
                discount += 1
            elif len(most) < self.tolerated:
                most.add(device)
                discount += count
            else:
                fewest = min(most, key=lambda one: (counts[one], one))
                if count > counts[fewest]:
                    most.remove(fewest)
                    most.add(device)
                    discount += count - counts[fewest]
            discounts[place] = discount
        return msgspec.structs.replace(self, counts=counts, most=tuple(sorted(most))), discounts

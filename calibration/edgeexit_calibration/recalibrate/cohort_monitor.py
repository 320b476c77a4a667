"""The alarm of a cohort: its policy in force exceeds the risk, and forged audits of a few devices cannot pretend it.

Devices are divided into groups. For each choice of as many groups as devices may forge audits, a monitor reads the
audits of all other groups. The alarm is raised when all monitors have raised theirs. One of them reads no forged audit,
and it raises a false alarm with probability at most alpha. So the same is true of the cohort.

An alarm that is true needs evidence outside the groups with the most losses, so it can come a little later. If as many
devices as are tolerated have all the losses, there is none.
"""

from itertools import combinations
from math import comb
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.fitting.change_monitor import ChangeAlarm, ChangeMonitor, new_monitor
from edgeexit_calibration.recalibrate.audits import Audits

_MAX_SHARE: Final = 0.05
_MIN_LIMIT: Final = 256
"""A monitor uses at most this share of the audits, or this number if it is more, from one device."""
_MAX_GROUPS: Final = 40
_MAX_MONITORS: Final = 300


class CohortMonitor(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an alarm, from `new_cohort_monitor`; `observe` returns the next state."""

    left_out: tuple[tuple[int, ...], ...]
    """Groups whose audits each monitor does not read."""
    monitors: tuple[ChangeMonitor, ...]
    groups: int
    counts: dict[int, int] = {}
    """Device id -> number of its audits. The group of a device is its place, modulo the number of groups."""

    @property
    def tolerated_devices(self) -> int:
        """Number of devices that may forge audits."""
        return len(self.left_out[0])

    @property
    def alarm(self) -> ChangeAlarm | None:
        """The last alarm of a monitor, if all have raised theirs."""
        alarms = [monitor.alarm for monitor in self.monitors if monitor.alarm is not None]
        return max(alarms, key=lambda one: one.alarm_position) if len(alarms) == len(self.monitors) else None

    @property
    def slowest(self) -> ChangeMonitor:
        """The monitor that is farthest from its alarm."""
        return min(self.monitors, key=lambda one: (one.alarm is not None, max(one.log_statistics)))

    def observe(self, audits: Audits, losses: npt.NDArray[Any]) -> "CohortMonitor":
        """Return the state after audits, with the losses [n] in [0, 1] of the policy in force."""
        counts, used = self._counted(audits)
        group_of = {device: place % self.groups for place, device in enumerate(counts)}
        groups = np.array([group_of[device] for device in audits.devices.tolist()])
        monitors = []
        for left_out, monitor in zip(self.left_out, self.monitors, strict=True):
            read = used & ~np.isin(groups, left_out)
            monitors.append(monitor.observe(audits.ids[read], losses[read]))
        return msgspec.structs.replace(self, monitors=tuple(monitors), counts=counts)

    def _counted(self, audits: Audits) -> tuple[dict[int, int], npt.NDArray[np.bool_]]:
        """Return the number of audits of each device, and which audits [n] the monitors use.

        The choice depends on the devices only, and not on the losses.
        """
        counts, total = dict(self.counts), sum(self.counts.values())
        used = np.ones(len(audits.ids), dtype=np.bool_)
        for place, device in enumerate(audits.devices.tolist()):
            total += 1
            counts[device] = counts.get(device, 0) + 1
            limit = max(_MAX_SHARE, 2 / len(counts)) * total
            used[place] = counts[device] <= max(_MIN_LIMIT, limit)
        return counts, used


def new_cohort_monitor(risk: float, *, alpha: float, tolerated_devices: int) -> CohortMonitor:
    """Return a state without audits, for a cohort of which `tolerated_devices` may forge audits."""
    few_enough = (count for count in range(1, _MAX_GROUPS + 1) if comb(count, tolerated_devices) <= _MAX_MONITORS)
    groups = max(tolerated_devices + 1, *few_enough)
    left_out = tuple(combinations(range(groups), tolerated_devices))
    return CohortMonitor(left_out=left_out, monitors=(new_monitor(risk, alpha=alpha),) * len(left_out), groups=groups)

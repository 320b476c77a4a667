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

_MAX_GROUPS: Final = 40
_MAX_MONITORS: Final = 300


class CohortMonitor(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an alarm, from `new_cohort_monitor`; `observe` returns the next state."""

    left_out: tuple[tuple[int, ...], ...]
    """Groups whose audits each monitor does not read."""
    monitors: tuple[ChangeMonitor, ...]
    groups: int
    group_of: dict[int, int] = {}
    """Device id -> its group."""

    @property
    def alpha(self) -> float:
        """Maximum probability of a false alarm."""
        return self.monitors[0].alpha

    @property
    def tolerated_devices(self) -> int:
        """Number of devices that may forge audits."""
        return len(self.left_out[0])

    @property
    def read_share(self) -> float:
        """Part of the audits that each monitor reads, if all devices send as many."""
        left_out = self.tolerated_devices
        return 1 - left_out / max(min(self.groups, len(self.group_of)), left_out + 1)

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
        group_of = dict(self.group_of)
        groups = np.array(
            [group_of.setdefault(device, len(group_of) % self.groups) for device in audits.devices.tolist()]
        )
        monitors = []
        for left_out, monitor in zip(self.left_out, self.monitors, strict=True):
            read = ~np.isin(groups, left_out)
            monitors.append(monitor.observe(audits.ids[read], losses[read]))
        return msgspec.structs.replace(self, monitors=tuple(monitors), group_of=group_of)


def new_cohort_monitor(risk: float, *, alpha: float, tolerated_devices: int) -> CohortMonitor:
    """Return a state without audits, for a cohort of which `tolerated_devices` may forge audits."""
    few_enough = (count for count in range(1, _MAX_GROUPS + 1) if comb(count, tolerated_devices) <= _MAX_MONITORS)
    groups = max(tolerated_devices + 1, *few_enough)
    left_out = tuple(combinations(range(groups), tolerated_devices))
    return CohortMonitor(left_out=left_out, monitors=(new_monitor(risk, alpha=alpha),) * len(left_out), groups=groups)

"""Telemetry of NVIDIA Jetson boards from sysfs: power rails, thermal zones, CPU and GPU clocks, over-current."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeexit.telemetry.clocks import Clocks
from edgeexit.telemetry.ina3221 import Ina3221
from edgeexit.telemetry.linux import fan_files, read_fans
from edgeexit.telemetry.programs import output_of
from edgeexit.telemetry.reading import Reading
from edgeexit.telemetry.sysfs import read_text, sorted_by_number
from edgeexit.telemetry.thermal import ThermalZones
from edgeexit.telemetry.throttling import ThrottleCounters, ThrottleStatus, combine

_NO_SENSOR: Final = ("PMIC-Die",)
"""Zones without a sensor; they always read 100 or 50 degrees."""
_GPU_NAMES: Final = ("gpu", "gp10b", "gv11b", "ga10b", "gb10b")
"""Parts of the names of GPUs in `sys/class/devfreq`."""
_MEMORY_CLOCKS: Final = ("sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/kernel/debug/clk/emc/clk_rate")

# An event of instantaneous over-current (oc3) halves the clocks for about a millisecond. On Orin boards in MAXN modes
# one or two per second are normal under any load; ten per second affect one percent of the time.
_BRIEF_EVENTS: Final = "oc3"
_MAX_BRIEF_EVENTS_PER_S: Final = 10.0


class JetsonProbe:
    """Reads the sensors of a Jetson; none of them needs root access.

    Args:
        root: folder that contains `sys`, `proc`, `usr` and `etc`; `/` on a real machine.
        clock: returns monotonic seconds.

    """

    name = "jetson"

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._thermal = ThermalZones(root, ignored=_NO_SENSOR)
        self._clocks = Clocks(root, _device_clocks(root))
        self._rails = Ina3221(root)
        self._fans = fan_files(root)
        self._over_currents = ThrottleCounters(_over_current_files(root))
        self._previous_s: float | None = None
        self.total_rail = self._rails.total_rail

    def read(self) -> Reading:
        """Read every sensor once."""
        now = self._clock()
        seconds = 0.0 if self._previous_s is None else now - self._previous_s
        self._previous_s = now
        temperatures, power = self._thermal.read(), self._rails.read()
        throttled, reasons = combine(
            (self._thermal.throttle_status(temperatures), self._rails.throttle_status(), self._over_current(seconds))
        )
        return Reading(
            monotonic_s=now,
            temperatures_c=temperatures,
            power_mw=power,
            total_mw=None if self.total_rail is None else power[self.total_rail],
            clocks_mhz=self._clocks.read(),
            fans_rpm=read_fans(self._fans),
            throttled=throttled,
            reasons=reasons,
        )

    def settings(self) -> dict[str, str]:
        """Return governor, maximum clock, power mode, and the release of L4T (NVIDIA's Linux)."""
        found = self._clocks.settings()
        mode, release = power_mode(self._root), read_text(self._root / "etc/nv_tegra_release")
        if mode is not None:
            found["power mode"] = mode
        if release is not None:
            found["release"] = release.splitlines()[0].lstrip("# ")
        return found

    def _over_current(self, seconds: float) -> ThrottleStatus:
        events = self._over_currents.new_events()
        reasons = tuple(
            f"{count} over-current or under-voltage events ({name})"
            for name, count in events.items()
            if count > (_MAX_BRIEF_EVENTS_PER_S * seconds if name == _BRIEF_EVENTS else 0)
        )
        return ThrottleStatus(bool(events), reasons)


def is_jetson(root: Path) -> bool:
    """Return True if the machine is a Jetson."""
    model = read_text(root / "proc/device-tree/model") or ""
    return "Jetson" in model or read_text(root / "etc/nv_tegra_release") is not None


def power_mode(root: Path = Path("/")) -> str | None:
    """Return the name of the power mode from nvpmodel; None if it is not known."""
    program = shutil.which("nvpmodel", path=f"{root / 'usr/sbin'}:{root / 'usr/bin'}")
    return None if program is None else read_power_mode(output_of(program, "-q") or "")


def read_power_mode(output: str) -> str | None:
    """Return the name of the mode in the output of `nvpmodel -q`, e.g. `15W` in the line `NV Power Mode: 15W`."""
    for line in output.splitlines():
        _, found, name = line.partition("NV Power Mode:")
        if found:
            return name.strip() or None
    return None


def _device_clocks(root: Path) -> dict[str, Path]:
    """Return clock name -> file: the clocks of the GPU (several on Thor), and the clock of the memory if readable."""
    devices = sorted_by_number((root / "sys/class/devfreq").glob("*"))
    gpus = [device for device in devices if any(name in device.name for name in _GPU_NAMES)]
    clocks = {"gpu" if len(gpus) == 1 else device.name: device / "cur_freq" for device in gpus}
    memory = next((root / path for path in _MEMORY_CLOCKS if read_text(root / path) is not None), None)
    return clocks if memory is None else clocks | {"memory": memory}


def _over_current_files(root: Path) -> dict[str, Path]:
    """Return the event counters of Orin and Thor.

    oc1 counts under-voltage, oc2 average over-current, and oc3 instantaneous over-current.
    """
    chips = (root / "sys/class/hwmon").glob("hwmon*")
    return {
        file.name.removesuffix("_event_cnt"): file
        for chip in sorted_by_number(chips)
        if read_text(chip / "name") == "soctherm_oc"
        for file in sorted_by_number(chip.glob("oc*_event_cnt"))
    }

"""Telemetry of any Linux machine: thermal zones, clocks, throttle counters and, if readable, RAPL energy."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeexit.telemetry.clocks import Clocks
from edgeexit.telemetry.reading import Reading
from edgeexit.telemetry.sysfs import read_number, read_text, sorted_by_number, unique_name
from edgeexit.telemetry.thermal import ThermalZones
from edgeexit.telemetry.throttling import ThrottleCounters, ThrottleStatus, combine

_MAX_CORES: Final = 64
_WHOLE_MACHINE: Final = "psys"
"""RAPL domain that measures the complete machine; few machines have it."""


class LinuxProbe:
    """Reads the sensors that any Linux machine may have. Without sensors, a reading is empty.

    Args:
        root: folder that contains `sys`; `/` on a real machine.
        clock: returns monotonic seconds.

    """

    name = "linux"

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thermal = ThermalZones(root)
        self._clocks = Clocks(root)
        cores = sorted_by_number((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle"))[:_MAX_CORES]
        self._throttles = ThrottleCounters(
            {
                f"{core.parent.name} {what}": core / f"{what}_throttle_count"
                for core in cores
                for what in ("core", "package")
            }
        )
        self._rapl = Rapl(root)
        self._fans = fan_files(root)
        self.total_rail = _WHOLE_MACHINE if _WHOLE_MACHINE in self._rapl.names else None

    def read(self) -> Reading:
        """Read every sensor once."""
        now = self._clock()
        temperatures = self._thermal.read()
        power = self._rapl.read(now)
        events = self._throttles.new_events()
        counted = ThrottleStatus(
            bool(events), tuple(f"{name} throttled by heat" for name, count in events.items() if count)
        )
        throttled, reasons = combine((self._thermal.throttle_status(temperatures), counted))
        return Reading(
            monotonic_s=now,
            temperatures_c=temperatures,
            power_mw=power,
            total_mw=power.get(_WHOLE_MACHINE),
            clocks_mhz=self._clocks.read(),
            fans_rpm=read_fans(self._fans),
            throttled=throttled,
            reasons=reasons,
        )

    def settings(self) -> dict[str, str]:
        """Return governor and maximum clock."""
        return self._clocks.settings()


class Rapl:
    """Mean power of RAPL domains between two readings. On most systems only root can read the energy counters."""

    def __init__(self, root: Path) -> None:
        self._domains: dict[str, Path] = {}
        for domain in sorted_by_number((root / "sys/class/powercap").glob("intel-rapl:*")):
            name = read_text(domain / "name")
            if name is not None and read_number(domain / "energy_uj", low=0) is not None:
                self._domains[unique_name(name, self._domains)] = domain
        self._previous: dict[str, tuple[float, float]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The readable domains."""
        return tuple(self._domains)

    def read(self, now_s: float) -> dict[str, float | None]:
        """Return domain -> mean power in mW since the previous call; None in the first call.

        Args:
            now_s: monotonic seconds.

        """
        found: dict[str, float | None] = {}
        for name, domain in self._domains.items():
            energy = read_number(domain / "energy_uj", low=0)
            previous_s, previous_energy = self._previous.get(name, (now_s, 0.0))
            found[name] = None
            if energy is not None:
                used = energy - previous_energy
                if used < 0:  # the counter has wrapped around
                    used += read_number(domain / "max_energy_range_uj", low=0) or 0
                if now_s > previous_s and used >= 0:
                    found[name] = round(used / (now_s - previous_s) * 1e-3, 1)
                self._previous[name] = (now_s, energy)
        return found


def fan_files(root: Path) -> dict[str, Path]:
    """Return name -> file of every fan with a speed sensor; on a Jetson, the file is named `rpm`."""
    files: dict[str, Path] = {}
    for chip in sorted_by_number((root / "sys/class/hwmon").glob("hwmon*")):
        for file in (*sorted_by_number(chip.glob("fan*_input")), chip / "rpm"):
            if file.exists():
                files[unique_name(read_text(chip / "name") or chip.name, files)] = file
    return files


def read_fans(files: dict[str, Path]) -> dict[str, float | None]:
    """Return fan -> speed in rpm."""
    return {name: read_number(path, low=0) for name, path in files.items()}

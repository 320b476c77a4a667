"""Telemetry of any Linux machine: thermal zones, clocks, throttle counters and, where it may be read, RAPL energy."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeexit.telemetry.clocks import Clocks
from edgeexit.telemetry.reading import Reading
from edgeexit.telemetry.sysfs import in_order, read_number, read_text, unique
from edgeexit.telemetry.thermal import Thermal
from edgeexit.telemetry.throttling import ThrottleCounters, ThrottleStatus, weigh

_MAX_CORES: Final = 64
_WHOLE_MACHINE: Final = "psys"
"""RAPL's domain of everything behind the power supply; few machines have it."""


class LinuxProbe:
    """Reads what any Linux may have; on a machine without sensors, nothing is known.

    Args:
        root: where `sys` is.
        clock: monotonic seconds.

    """

    name = "linux"

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thermal = Thermal(root)
        self._clocks = Clocks(root)
        cores = in_order((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle"))[:_MAX_CORES]
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
        events = self._throttles.take()
        counted = ThrottleStatus(
            bool(events), tuple(f"{name} throttled by heat" for name, times in events.items() if times)
        )
        throttled, reasons = weigh((self._thermal.throttle_status(temperatures), counted))
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
        """Return what the machine is set to."""
        return self._clocks.settings()


class Rapl:
    """Mean power of RAPL's domains between two readings, from energy counters that most systems keep for root."""

    def __init__(self, root: Path) -> None:
        self._domains: dict[str, Path] = {}
        for domain in in_order((root / "sys/class/powercap").glob("intel-rapl:*")):
            name = read_text(domain / "name")
            if name is not None and read_number(domain / "energy_uj", low=0) is not None:
                self._domains[unique(name, self._domains)] = domain
        self._before: dict[str, tuple[float, float]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The domains that may be read."""
        return tuple(self._domains)

    def read(self, now: float) -> dict[str, float | None]:
        """Return mW of every domain since the last call; null at the first. `now` in seconds."""
        found: dict[str, float | None] = {}
        for name, domain in self._domains.items():
            energy = read_number(domain / "energy_uj", low=0)
            then, before = self._before.get(name, (now, 0.0))
            found[name] = None
            if energy is not None:
                used = energy - before
                if used < 0:  # the counter has come round
                    used += read_number(domain / "max_energy_range_uj", low=0) or 0
                if now > then and used >= 0:
                    found[name] = round(used / (now - then) * 1e-3, 1)
                self._before[name] = (now, energy)
        return found


def fan_files(root: Path) -> dict[str, Path]:
    """Return name -> file of every fan that tells its speed; a Jetson's tachometer calls it `rpm`."""
    files: dict[str, Path] = {}
    for chip in in_order((root / "sys/class/hwmon").glob("hwmon*")):
        for file in (*in_order(chip.glob("fan*_input")), chip / "rpm"):
            if file.exists():
                files[unique(read_text(chip / "name") or chip.name, files)] = file
    return files


def read_fans(files: dict[str, Path]) -> dict[str, float | None]:
    """Return turns a minute of each fan."""
    return {name: read_number(path, low=0) for name, path in files.items()}

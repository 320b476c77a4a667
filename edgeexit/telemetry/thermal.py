"""Thermal zones of the Linux kernel: temperatures, limits, and whether the machine is throttled by heat."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from edgeexit.telemetry.sysfs import read_number, read_text, sorted_by_number, unique_name
from edgeexit.telemetry.throttling import ThrottleStatus

# Sensors that are switched off read -256 degrees on some boards and 0 K on others.
_MIN_C: Final = -40.0
_MAX_C: Final = 150.0

_PASSIVE: Final = "passive"
"""Type of the trip points at which the kernel lowers clocks. At those of type `active` it only speeds up a fan."""
_UPPER_LIMITS: Final = ("hot", "critical")
"""Types of the trip points at which the kernel warns or shuts down. Firmware may throttle at lower temperatures, and
does not report it."""
_LIMITERS: Final = ("cpufreq", "thermal-cpufreq", "devfreq", "thermal-devfreq", "Processor")
"""Prefixes of the names of cooling devices that lower clocks."""
_ALERT: Final = "-alert"
"""Suffix of the cooling devices through which a Jetson's firmware reports that it throttles."""


class ThermalZones:
    """The thermal zones and cooling devices of a machine.

    Args:
        root: folder that contains `sys`; `/` on a real machine.
        ignored: names of zones without a sensor.

    """

    def __init__(self, root: Path, *, ignored: Collection[str] = ()) -> None:
        folder = root / "sys/class/thermal"
        self._zones: dict[str, Path] = {}
        self._limits: dict[str, float] = {}
        self._throttled_by_kernel: list[str] = []
        for zone in sorted_by_number(folder.glob("thermal_zone*")):
            name = unique_name(read_text(zone / "type") or zone.name, self._zones)
            if name in ignored:
                continue
            self._zones[name] = zone / "temp"
            passive, others = _limits(zone, {_PASSIVE}), _limits(zone, _UPPER_LIMITS)
            if passive or others:
                self._limits[name] = min(passive + others)
            if passive:
                self._throttled_by_kernel.append(name)
        self._cooling: dict[str, Path] = {}
        for device in sorted_by_number(folder.glob("cooling_device*")):
            kind = read_text(device / "type") or ""
            if kind.startswith(_LIMITERS) or kind.endswith(_ALERT):
                self._cooling[unique_name(kind, self._cooling)] = device / "cur_state"

    def read(self) -> dict[str, float | None]:
        """Return zone -> temperature in degrees Celsius."""
        return {name: read_number(path, scale=1e-3, low=_MIN_C, high=_MAX_C) for name, path in self._zones.items()}

    def throttle_status(self, temperatures_c: Mapping[str, float | None]) -> ThrottleStatus:
        """Return which zones have reached their limit, and which cooling devices that lower clocks are active."""
        reasons = [
            f"{name} is at {temperature:.1f} °C, its limit is {self._limits[name]:.0f} °C"
            for name, temperature in temperatures_c.items()
            if temperature is not None and name in self._limits and temperature >= self._limits[name]
        ]
        states = {name: read_number(path, low=0) for name, path in self._cooling.items()}
        reasons += [f"{name} is active" for name, state in states.items() if state]
        known = [temperatures_c[name] for name in self._throttled_by_kernel] + list(states.values())
        return ThrottleStatus(any(value is not None for value in known), tuple(reasons))


def _limits(zone: Path, kinds: Collection[str]) -> list[float]:
    """Return the temperatures of a zone's trip points of these types, without unset ones, whose files contain 0."""
    names = [kind.name.replace("_type", "_temp") for kind in zone.glob("trip_point_*_type") if read_text(kind) in kinds]
    limits = [read_number(zone / name, scale=1e-3, low=1, high=_MAX_C) for name in names]
    return [limit for limit in limits if limit is not None]

"""The kernel's thermal zones: temperatures, the limits at which it slows the machine down, and whether it does."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from edgeexit.telemetry.sysfs import in_order, read_number, read_text, unique
from edgeexit.telemetry.throttling import ThrottleStatus

# Sensors that are switched off read -256 degrees on some boards, and 0 K on others.
_COLDEST_C: Final = -40.0
_HOTTEST_C: Final = 150.0

_PASSIVE: Final = "passive"
"""Kind of trip points at which the kernel takes speed away; at an `active` one it turns a fan up."""
_LAST_RESORTS: Final = ("hot", "critical")
"""Kinds at which it warns, and switches off. Below them firmware may slow a machine down and tell nobody."""
_LIMITERS: Final = ("cpufreq", "thermal-cpufreq", "devfreq", "thermal-devfreq", "Processor")
"""Beginnings of the names of cooling devices that cool by slowing down."""
_ALERT: Final = "-alert"
"""End of the names of those by which a Jetson's firmware tells that it slows down."""


class Thermal:
    """Thermal zones and cooling devices below `root`.

    Args:
        root: where `sys` is; `/` on a machine.
        constants: zones whose value is no measurement.

    """

    def __init__(self, root: Path, *, constants: Collection[str] = ()) -> None:
        folder = root / "sys/class/thermal"
        self._zones: dict[str, Path] = {}
        self._limits: dict[str, float] = {}
        self._slowed_by_kernel: list[str] = []
        for zone in in_order(folder.glob("thermal_zone*")):
            name = unique(read_text(zone / "type") or zone.name, self._zones)
            if name in constants:
                continue
            self._zones[name] = zone / "temp"
            passive, others = _limits(zone, {_PASSIVE}), _limits(zone, _LAST_RESORTS)
            if passive or others:
                self._limits[name] = min(passive + others)
            if passive:
                self._slowed_by_kernel.append(name)
        self._cooling: dict[str, Path] = {}
        for device in in_order(folder.glob("cooling_device*")):
            kind = read_text(device / "type") or ""
            if kind.startswith(_LIMITERS) or kind.endswith(_ALERT):
                self._cooling[unique(kind, self._cooling)] = device / "cur_state"

    def read(self) -> dict[str, float | None]:
        """Return the temperature of every zone in degrees Celsius."""
        return {
            name: read_number(path, scale=1e-3, low=_COLDEST_C, high=_HOTTEST_C) for name, path in self._zones.items()
        }

    def throttle_status(self, temperatures_c: Mapping[str, float | None]) -> ThrottleStatus:
        """Return which zones stand at their limit and which cooling devices are at work."""
        reasons = [
            f"{name} at {temperature:.1f} °C, its limit is {self._limits[name]:.0f} °C"
            for name, temperature in temperatures_c.items()
            if temperature is not None and name in self._limits and temperature >= self._limits[name]
        ]
        states = {name: read_number(path, low=0) for name, path in self._cooling.items()}
        reasons += [f"{name} is on" for name, state in states.items() if state]
        known = [temperatures_c[name] for name in self._slowed_by_kernel] + list(states.values())
        return ThrottleStatus(any(value is not None for value in known), tuple(reasons))


def _limits(zone: Path, kinds: Collection[str]) -> list[float]:
    """Return the temperatures of a zone's trip points of these kinds; one that is not set is 0."""
    places = [
        kind.name.replace("_type", "_temp") for kind in zone.glob("trip_point_*_type") if read_text(kind) in kinds
    ]
    limits = [read_number(zone / place, scale=1e-3, low=1, high=_HOTTEST_C) for place in places]
    return [limit for limit in limits if limit is not None]

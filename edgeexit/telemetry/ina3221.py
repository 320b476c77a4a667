"""INA3221 power monitors of Jetson boards, through hwmon or, in JetPack 4, through iio. They need no root access."""

from pathlib import Path
from typing import Final, NamedTuple

from edgeexit.telemetry.sysfs import read_number, read_text, sorted_by_number, unique_name
from edgeexit.telemetry.throttling import ThrottleStatus

TOTAL_RAILS: Final = ("VDD_IN", "POM_5V_IN")
"""Rails that measure the whole module: `VDD_IN` on Orin NX, Orin Nano, Xavier NX and TX2, `POM_5V_IN` on the first
Jetson Nano. Other modules have no such rail."""

_UNCONNECTED: Final = "NC"
_SUM_CHANNEL: Final = "sum of shunt voltages"
_MAX_MW: Final = 500_000.0


class _Rail(NamedTuple):
    voltage_mv: Path | None
    current_ma: Path | None
    power_mw: Path | None
    """Only in iio, which multiplies voltage and current itself."""
    alarm: Path | None
    """Reads 1 while the current exceeds the module's limit and the hardware throttles."""


class Ina3221:
    """All connected channels, by the name of their rail. The names differ between boards.

    Args:
        root: folder that contains `sys`; `/` on a real machine.

    """

    def __init__(self, root: Path) -> None:
        self._rails: dict[str, _Rail] = {}
        drivers = root / "sys/bus/i2c/drivers"
        for chip in sorted_by_number(drivers.glob("ina3221/*/hwmon/hwmon*")):
            for label in sorted_by_number(chip.glob("in*_label")):
                channel = label.name[len("in") : -len("_label")]
                current = chip / f"curr{channel}_input"
                if current.exists():
                    self._add(
                        label,
                        _Rail(chip / f"in{channel}_input", current, None, chip / f"curr{channel}_crit_alarm"),
                    )
        for chip in sorted_by_number(drivers.glob("ina3221x/*/iio:device*")):
            for label in sorted_by_number(chip.glob("rail_name_*")):
                channel = label.name[len("rail_name_") :]
                self._add(label, _Rail(None, None, chip / f"in_power{channel}_input", None))

    @property
    def total_rail(self) -> str | None:
        """Name of the rail that measures the whole module, or None."""
        return next((name for name in TOTAL_RAILS if name in self._rails), None)

    def read(self) -> dict[str, float | None]:
        """Return rail -> power in mW."""
        return {name: _power(rail) for name, rail in self._rails.items()}

    def throttle_status(self) -> ThrottleStatus:
        """Return the rails whose current is above the critical limit at this moment."""
        alarms = {name: read_number(rail.alarm) for name, rail in self._rails.items() if rail.alarm is not None}
        known = {name: alarm for name, alarm in alarms.items() if alarm is not None}
        return ThrottleStatus(
            bool(known),
            tuple(f"the current of {name} is above its critical limit" for name, alarm in known.items() if alarm),
        )

    def _add(self, label: Path, rail: _Rail) -> None:
        name = read_text(label)
        if name is not None and name not in {_UNCONNECTED, _SUM_CHANNEL}:
            self._rails[unique_name(name, self._rails)] = rail


def _power(rail: _Rail) -> float | None:
    if rail.power_mw is not None:
        return read_number(rail.power_mw, low=0, high=_MAX_MW)
    if rail.voltage_mv is None or rail.current_ma is None:
        return None
    voltage, current = read_number(rail.voltage_mv, low=0), read_number(rail.current_ma, low=0)
    if voltage is None or current is None or voltage * current * 1e-3 > _MAX_MW:
        return None
    return round(voltage * current * 1e-3, 1)

"""The INA3221 power monitors of Jetson boards, which need no root: in hwmon, and in the iio of JetPack 4."""

from pathlib import Path
from typing import Final, NamedTuple

from edgeexit.telemetry.sysfs import in_order, read_number, read_text, unique
from edgeexit.telemetry.throttling import ThrottleStatus

TOTAL_RAILS: Final = ("VDD_IN", "POM_5V_IN")
"""Rails that carry the whole module: of Orin NX and Nano, Xavier NX, TX2, and of the first Nano. Others have none."""

_UNCONNECTED: Final = "NC"
_SUM: Final = "sum of shunt voltages"
_MAX_MW: Final = 500_000.0


class _Rail(NamedTuple):
    voltage_mv: Path | None
    current_ma: Path | None
    power_mw: Path | None
    """Of iio, which multiplies by itself."""
    alarm: Path | None
    """1 while the current is above what the module may draw, and the hardware slows it down."""


class Ina3221:
    """Every channel below `root` that is connected, by the rail's name; names differ from board to board."""

    def __init__(self, root: Path) -> None:
        self._rails: dict[str, _Rail] = {}
        drivers = root / "sys/bus/i2c/drivers"
        for chip in in_order(drivers.glob("ina3221/*/hwmon/hwmon*")):
            for label in in_order(chip.glob("in*_label")):
                channel = label.name[len("in") : -len("_label")]
                current = chip / f"curr{channel}_input"
                if current.exists():
                    self._add(
                        label,
                        _Rail(chip / f"in{channel}_input", current, None, chip / f"curr{channel}_crit_alarm"),
                    )
        for chip in in_order(drivers.glob("ina3221x/*/iio:device*")):
            for label in in_order(chip.glob("rail_name_*")):
                channel = label.name[len("rail_name_") :]
                self._add(label, _Rail(None, None, chip / f"in_power{channel}_input", None))

    @property
    def total_rail(self) -> str | None:
        """The rail that carries the whole module, or None."""
        return next((name for name in TOTAL_RAILS if name in self._rails), None)

    def read(self) -> dict[str, float | None]:
        """Return every rail's power in mW."""
        return {name: _power(rail) for name, rail in self._rails.items()}

    def throttle_status(self) -> ThrottleStatus:
        """Return the rails whose current is above the critical limit right now."""
        alarms = {name: read_number(rail.alarm) for name, rail in self._rails.items() if rail.alarm is not None}
        told = {name: alarm for name, alarm in alarms.items() if alarm is not None}
        return ThrottleStatus(
            bool(told), tuple(f"{name} draws too much current" for name, alarm in told.items() if alarm)
        )

    def _add(self, label: Path, rail: _Rail) -> None:
        name = read_text(label)
        if name is not None and name not in {_UNCONNECTED, _SUM}:
            self._rails[unique(name, self._rails)] = rail


def _power(rail: _Rail) -> float | None:
    if rail.power_mw is not None:
        return read_number(rail.power_mw, low=0, high=_MAX_MW)
    if rail.voltage_mv is None or rail.current_ma is None:
        return None
    voltage, current = read_number(rail.voltage_mv, low=0), read_number(rail.current_ma, low=0)
    if voltage is None or current is None or voltage * current * 1e-3 > _MAX_MW:
        return None
    return round(voltage * current * 1e-3, 1)

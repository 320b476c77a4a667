"""Telemetry of Raspberry Pi boards: throttle bits, temperature and clock from the firmware, through vcgencmd."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeexit.telemetry.clocks import MHZ_PER_HZ, Clocks
from edgeexit.telemetry.linux import fan_files, read_fans
from edgeexit.telemetry.programs import output_of
from edgeexit.telemetry.reading import Reading
from edgeexit.telemetry.sysfs import read_text
from edgeexit.telemetry.thermal import ThermalZones
from edgeexit.telemetry.throttling import ThrottleStatus, combine

_BITS: Final = ("under-voltage", "clock capped", "throttled", "soft temperature limit")
"""Meaning of bits 0 to 3 of `get_throttled`, the current state, and of bits 16 to 19: the state since boot."""
_SINCE_BOOT_SHIFT: Final = 16
_RAIL: Final = re.compile(r"^\s*(\S+)_([AV]) (?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]\s*$", re.MULTILINE)
_NUMBER: Final = re.compile(r"=([0-9.]+)")


class RaspberryPiProbe:
    """Reads the sensors of a Raspberry Pi. Only a Pi 5 measures power: of the rails of its PMIC, not of the board.

    Args:
        root: folder that contains `sys`, `proc`, `usr` and `opt`; `/` on a real machine.
        clock: returns monotonic seconds.

    """

    name = "raspberry-pi"
    total_rail = None

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._program = shutil.which("vcgencmd", path=f"{root / 'usr/bin'}:{root / 'opt/vc/bin'}")
        self._thermal = ThermalZones(root)
        self._clocks = Clocks(root)
        self._fans = fan_files(root)
        self._previous_bits: int | None = None
        self._has_pmic = bool(self._rails())

    def read(self) -> Reading:
        """Read every sensor once, with at most five short runs of vcgencmd."""
        now = self._clock()
        temperatures = self._thermal.read()
        soc = _number(self._query("measure_temp"))
        if self._program is not None:
            temperatures["soc"] = soc
        clocks = self._clocks.read()
        if self._program is not None:
            hertz = _number(self._query("measure_clock", "arm"))
            # The actual clock. scaling_cur_freq is what the kernel requested; the firmware may choose a lower one.
            clocks["arm"] = None if hertz is None else round(hertz * MHZ_PER_HZ, 3)
        throttled, reasons = combine((self._thermal.throttle_status(temperatures), self._throttle_bits()))
        return Reading(
            monotonic_s=now,
            temperatures_c=temperatures,
            power_mw=self._rails() if self._has_pmic else {},
            clocks_mhz=clocks,
            fans_rpm=read_fans(self._fans),
            throttled=throttled,
            reasons=reasons,
        )

    def settings(self) -> dict[str, str]:
        """Return governor, maximum clock, and the reasons for which the firmware has throttled since boot."""
        found = self._clocks.settings()
        bits = read_throttle_bits(self._query("get_throttled"))
        if bits is not None and (since := _names(bits >> _SINCE_BOOT_SHIFT)):
            found["throttled since boot"] = ", ".join(since)
        return found

    def _throttle_bits(self) -> ThrottleStatus:
        bits = read_throttle_bits(self._query("get_throttled"))
        if bits is None:
            return ThrottleStatus(known=False)
        previous = bits if self._previous_bits is None else self._previous_bits
        self._previous_bits = bits
        return ThrottleStatus(known=True, reasons=(*_names(bits), *_names((bits & ~previous) >> _SINCE_BOOT_SHIFT)))

    def _rails(self) -> dict[str, float | None]:
        """Return rail -> power in mW, for the rails whose current and voltage the PMIC measures."""
        measured: dict[str, dict[str, float]] = {}
        for rail, unit, value in _RAIL.findall(self._query("pmic_read_adc") or ""):
            measured.setdefault(rail, {})[unit] = float(value)
        return {
            rail: round(values["A"] * values["V"] * 1e3, 1)
            for rail, values in measured.items()
            if values.keys() == {"A", "V"}
        }

    def _query(self, *arguments: str) -> str | None:
        """Return the output of vcgencmd; None if it is not installed or fails."""
        return None if self._program is None else output_of(self._program, *arguments)


def is_raspberry_pi(root: Path) -> bool:
    """Return True if the machine is a Raspberry Pi."""
    return (read_text(root / "proc/device-tree/model") or "").startswith("Raspberry Pi")


def read_throttle_bits(output: str | None) -> int | None:
    """Return the bits in the output of `vcgencmd get_throttled`, e.g. `throttled=0x50005`; None if there are none."""
    _, found, digits = (output or "").strip().partition("throttled=")
    try:
        return int(digits, 16) if found else None
    except ValueError:
        return None


def _names(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(_BITS) if bits >> bit & 1)


def _number(output: str | None) -> float | None:
    found = _NUMBER.search(output or "")
    try:
        return None if found is None else float(found[1])
    except ValueError:
        return None

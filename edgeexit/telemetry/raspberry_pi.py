"""Telemetry of Raspberry Pi boards: the firmware's throttle bits, temperature and clock through vcgencmd."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeexit.telemetry.clocks import HERTZ, Clocks
from edgeexit.telemetry.linux import fan_files, read_fans
from edgeexit.telemetry.programs import ask
from edgeexit.telemetry.reading import Reading
from edgeexit.telemetry.sysfs import read_text
from edgeexit.telemetry.thermal import Thermal
from edgeexit.telemetry.throttling import ThrottleStatus, weigh

_BITS: Final = ("under-voltage", "clock capped", "throttled", "soft temperature limit")
"""Bits 0 to 3 of `get_throttled`: now. Bits 16 to 19: at any time since the start."""
_SINCE_START: Final = 16
_RAIL: Final = re.compile(r"^\s*(\S+)_([AV]) (?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]\s*$", re.MULTILINE)
_NUMBER: Final = re.compile(r"=([0-9.]+)")


class RaspberryPiProbe:
    """Reads a Raspberry Pi. A Pi 5 tells the power of the rails behind its PMIC, but not of its input; others none.

    Args:
        root: where `sys`, `proc` and `usr` are.
        clock: monotonic seconds.

    """

    name = "raspberry-pi"
    total_rail = None

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._program = shutil.which("vcgencmd", path=f"{root / 'usr/bin'}:{root / 'opt/vc/bin'}")
        self._thermal = Thermal(root)
        self._clocks = Clocks(root)
        self._fans = fan_files(root)
        self._bits_before: int | None = None
        self._has_pmic = bool(self._rails())

    def read(self) -> Reading:
        """Read every sensor once; five short runs of vcgencmd at most."""
        now = self._clock()
        temperatures = self._thermal.read()
        soc = _number(self._ask("measure_temp"))
        if self._program is not None:
            temperatures["soc"] = soc
        clocks = self._clocks.read()
        if self._program is not None:
            hertz = _number(self._ask("measure_clock", "arm"))
            # What the processor runs at; scaling_cur_freq is what the kernel asked for, whatever the firmware gave.
            clocks["arm"] = None if hertz is None else round(hertz * HERTZ, 3)
        throttled, reasons = weigh((self._thermal.throttle_status(temperatures), self._throttle_bits()))
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
        """Return governor, highest clock, and what the firmware held against the board since its start."""
        found = self._clocks.settings()
        bits = read_throttle_bits(self._ask("get_throttled"))
        if bits is not None and (since := _names(bits >> _SINCE_START)):
            found["since the board's start"] = ", ".join(since)
        return found

    def _throttle_bits(self) -> ThrottleStatus:
        bits = read_throttle_bits(self._ask("get_throttled"))
        if bits is None:
            return ThrottleStatus(known=False)
        before = bits if self._bits_before is None else self._bits_before
        self._bits_before = bits
        return ThrottleStatus(known=True, reasons=(*_names(bits), *_names((bits & ~before) >> _SINCE_START)))

    def _rails(self) -> dict[str, float | None]:
        """Return mW of every rail of which the PMIC measures both current and voltage."""
        measured: dict[str, dict[str, float]] = {}
        for rail, unit, value in _RAIL.findall(self._ask("pmic_read_adc") or ""):
            measured.setdefault(rail, {})[unit] = float(value)
        return {rail: round(of["A"] * of["V"] * 1e3, 1) for rail, of in measured.items() if of.keys() == {"A", "V"}}

    def _ask(self, *arguments: str) -> str | None:
        return None if self._program is None else ask(self._program, *arguments)


def is_raspberry_pi(root: Path) -> bool:
    """Return whether the machine calls itself one."""
    return (read_text(root / "proc/device-tree/model") or "").startswith("Raspberry Pi")


def read_throttle_bits(told: str | None) -> int | None:
    """Return the bits from what `vcgencmd get_throttled` prints: `throttled=0x50005`."""
    _, found, digits = (told or "").strip().partition("throttled=")
    try:
        return int(digits, 16) if found else None
    except ValueError:
        return None


def _names(bits: int) -> tuple[str, ...]:
    return tuple(name for place, name in enumerate(_BITS) if bits >> place & 1)


def _number(told: str | None) -> float | None:
    found = _NUMBER.search(told or "")
    try:
        return None if found is None else float(found[1])
    except ValueError:
        return None

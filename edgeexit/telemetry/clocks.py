"""Clocks of the processor and of devices, and what governs them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgeexit.telemetry.sysfs import in_order, read_number, read_text

_KILOHERTZ: Final = 1e-3
HERTZ: Final = 1e-6
_SLOWEST_MHZ: Final = 1.0
_FASTEST_MHZ: Final = 10_000.0
_MAX_READ: Final = 8


class Clocks:
    """Clocks below `root`: those of the processor's clusters, and `others` by name and file in hertz.

    Of a server with a clock for each of many cores, eight are read, evenly over all.
    """

    def __init__(self, root: Path, others: Mapping[str, Path] | None = None) -> None:
        policies = in_order((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
        step = -(-len(policies) // _MAX_READ) or 1
        self._policies = policies[::step]
        self._others = others or {}

    def read(self) -> dict[str, float | None]:
        """Return every clock in MHz, a cluster's under its first core, as `cpu4`."""
        clocks = {_core(policy): _mhz(policy / "scaling_cur_freq", _KILOHERTZ) for policy in self._policies}
        return clocks | {name: _mhz(path, HERTZ) for name, path in self._others.items()}

    def settings(self) -> dict[str, str]:
        """Return governors and highest clocks; what all clusters share stands there once."""
        governors = {_core(policy): read_text(policy / "scaling_governor") for policy in self._policies}
        highest = {_core(policy): _mhz(policy / "scaling_max_freq", _KILOHERTZ) for policy in self._policies}
        told = {
            "governor": governors,
            "highest clock": {core: None if mhz is None else f"{mhz:g} MHz" for core, mhz in highest.items()},
        }
        return {what: shared for what, values in told.items() if (shared := _shared(values))}


def _shared(values: Mapping[str, str | None]) -> str:
    """Return the value that all have, or each with its own."""
    known = {core: value for core, value in values.items() if value is not None}
    if len(set(known.values())) == 1:
        return next(iter(known.values()))
    return ", ".join(f"{core} {value}" for core, value in known.items())


def _core(policy: Path) -> str:
    return policy.name.replace("policy", "cpu")


def _mhz(path: Path, scale: float) -> float | None:
    return read_number(path, scale=scale, low=_SLOWEST_MHZ, high=_FASTEST_MHZ)

"""Clock frequencies of the processor and of other devices, and the governors of the processor."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgeexit.telemetry.sysfs import read_number, read_text, sorted_by_number

_MHZ_PER_KHZ: Final = 1e-3
MHZ_PER_HZ: Final = 1e-6
_MIN_MHZ: Final = 1.0
_MAX_MHZ: Final = 10_000.0
_MAX_POLICIES: Final = 8
_WITH_BOOST: Final = ("x86_64", "amd64", "i686", "i386")
"""Architectures whose maximum frequency is one that is reached only for a while."""


def nominal_clocks(root: Path = Path("/"), *, machine: str | None = None) -> dict[str, float]:
    """Return clock name -> MHz that the cores of a cluster reach for any length of time, under the current settings.

    That is the base frequency of x86 processors, whose boost depends on heat and load, and the maximum of others,
    unless the settings (a power mode) limit the clock further. Unknown clusters are left out, and all clusters if
    `Clocks` reads only some of them, because then it may not read the one that is busy.

    Args:
        root: folder that contains `sys`; `/` on a real machine.
        machine: architecture; default: that of this machine.

    """
    policies = sorted_by_number((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    if len(policies) > _MAX_POLICIES:
        return {}
    has_boost = (machine or platform.machine()).lower() in _WITH_BOOST
    found = {}
    for policy in policies:
        core = root / "sys/devices/system/cpu" / _core(policy)
        known = [
            _mhz(policy / "base_frequency", _MHZ_PER_KHZ),
            _mhz(core / "acpi_cppc/nominal_freq", 1),
            None if has_boost else _mhz(policy / "cpuinfo_max_freq", _MHZ_PER_KHZ),
        ]
        nominal = next((mhz for mhz in known if mhz is not None), None)
        if nominal is not None:
            found[_core(policy)] = min(nominal, _mhz(policy / "scaling_max_freq", _MHZ_PER_KHZ) or nominal)
    return found


class Clocks:
    """The clocks of the processor's clusters, and other clocks.

    If there are more than eight cpufreq policies, as on servers with one per core, eight evenly spaced ones are read.

    Args:
        root: folder that contains `sys`; `/` on a real machine.
        others: clock name -> file with the frequency in Hz.

    """

    def __init__(self, root: Path, others: Mapping[str, Path] | None = None) -> None:
        policies = sorted_by_number((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
        step = -(-len(policies) // _MAX_POLICIES) or 1
        self._policies = policies[::step]
        self._others = others or {}

    def read(self) -> dict[str, float | None]:
        """Return clock name -> MHz. A cluster has the name of its first core, e.g. `cpu4`."""
        clocks = {_core(policy): _mhz(policy / "scaling_cur_freq", _MHZ_PER_KHZ) for policy in self._policies}
        return clocks | {name: _mhz(path, MHZ_PER_HZ) for name, path in self._others.items()}

    def settings(self) -> dict[str, str]:
        """Return the governors and maximum clocks. A value that is the same for all clusters occurs once."""
        governors = {_core(policy): read_text(policy / "scaling_governor") for policy in self._policies}
        maximum = {_core(policy): _mhz(policy / "scaling_max_freq", _MHZ_PER_KHZ) for policy in self._policies}
        by_core = {
            "governor": governors,
            "maximum clock": {core: None if mhz is None else f"{mhz:g} MHz" for core, mhz in maximum.items()},
        }
        return {name: text for name, values in by_core.items() if (text := _summary(values))}


def _summary(values: Mapping[str, str | None]) -> str:
    """Return the common value of all clusters, or the value of each cluster under its first core."""
    known = {core: value for core, value in values.items() if value is not None}
    if len(set(known.values())) == 1:
        return next(iter(known.values()))
    return ", ".join(f"{core} {value}" for core, value in known.items())


def _core(policy: Path) -> str:
    return policy.name.replace("policy", "cpu")


def _mhz(path: Path, scale: float) -> float | None:
    return read_number(path, scale=scale, low=_MIN_MHZ, high=_MAX_MHZ)

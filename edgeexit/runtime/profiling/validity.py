"""Decides whether latencies were measured on a machine in a state that they may be used as costs."""

from collections.abc import Iterator, Mapping
from typing import Final

from edgeexit.formatting import percent
from edgeexit.latency import Drift
from edgeexit.telemetry import MachineLoad, Telemetry

MAX_LOST: Final = 0.05
"""Max fraction of the time of a program that is ready to run in which it does not run. A fraction w makes the mean
latency 1 / (1 - w) times as long, so 5 % is as much as a drift may be."""
MAX_OTHERS: Final = 0.5
"""Max fraction of the cores that other programs may use. They share caches, memory and heat, also if no program waits
for a core."""
MIN_CLOCK: Final = 0.9
"""Min fraction of the nominal clock that a core must reach in one of the readings."""
_MIN_OWN_CORES: Final = 0.5
"""A process that uses less than this fraction of a core waits for a GPU; then low clocks say nothing."""
_MIN_READINGS: Final = 3
"""The first and the last reading are taken while no inference runs."""


def reasons_of_machine(
    load: MachineLoad | None, telemetry: Telemetry | None, nominal_mhz: Mapping[str, float]
) -> tuple[str, ...]:
    """Return the reasons why a machine was not fit for a measurement, e.g. other programs used its cores.

    Args:
        load: what else the machine did during the measurement.
        telemetry: the readings of its sensors.
        nominal_mhz: clock name -> MHz that the settings of the machine allow for any length of time.

    """
    reasons = []
    if telemetry is not None and telemetry.throttled:
        reasons.append(f"the machine was throttled: {'; '.join(telemetry.reasons)}")
    if load is not None:
        reasons += _reasons_of_load(load)
    if telemetry is not None and load is not None and load.own_cores >= _MIN_OWN_CORES:
        reasons += _reasons_of_clocks(telemetry, nominal_mhz)
    return tuple(reasons)


def reasons_of_drift(drift: Drift | None) -> tuple[str, ...]:
    """Return the reason if the machine became slower or faster during the measurement."""
    if drift is None or not drift.drifted:
        return ()
    reason = (
        "the speed of the machine drifted: in the last quarter of the run, the first stage took "
        f"{drift.ratio:.2f} times as long as in the first quarter ({drift.low:.2f} to {drift.high:.2f})"
    )
    return (reason,)


def _reasons_of_load(load: MachineLoad) -> Iterator[str]:
    if load.waited is not None and load.waited > MAX_LOST:
        waited = percent(load.waited)
        yield f"the inference waited {waited} of its time for a core, because other work used the cores"
    if load.stolen is not None and load.stolen > MAX_LOST:
        yield f"the hypervisor gave {percent(load.stolen)} of the processor's time to other virtual machines (steal)"
    if load.quota_periods is not None and load.quota_periods > MAX_LOST:
        yield f"the processor quota of the container was used up in {percent(load.quota_periods)} of the periods"
    if load.other_cores is not None and load.other_cores > MAX_OTHERS * load.cores:
        yield f"other programs used {load.other_cores:.1f} of {load.cores} cores"


def _reasons_of_clocks(telemetry: Telemetry, nominal_mhz: Mapping[str, float]) -> Iterator[str]:
    """Yield a reason if no core whose nominal clock is known has reached it."""
    reached = {
        name: (clock.max, nominal_mhz[name])
        for name, clock in telemetry.clocks_mhz.items()
        if clock is not None and name in nominal_mhz
    }
    if telemetry.readings < _MIN_READINGS or not reached:
        return
    name, (highest, nominal) = max(reached.items(), key=lambda item: item[1][0] / item[1][1])
    if highest < MIN_CLOCK * nominal:
        yield f"the clock of '{name}' reached {highest:g} MHz of {nominal:g} MHz, and no other core reached more"

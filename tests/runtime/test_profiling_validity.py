"""A machine that was throttled, busy, slow or drifting is not fit for a measurement; a normal one is."""

import pytest

from edgeexit.latency import Drift
from edgeexit.runtime.profiling.validity import reasons_of_drift, reasons_of_machine
from edgeexit.telemetry import MachineLoad, SensorRange, Telemetry

NORMAL = {"seconds": 7.0, "cores": 4, "own_cores": 1.0, "other_cores": 0.6, "stolen": 0.01, "waited": 0.02,
          "quota_periods": 0.0, "load_before": 9.0, "load_after": 3.0}  # fmt: skip


def load(**changes):
    return MachineLoad(**{**NORMAL, **changes})


def telemetry(*, throttled=False, readings=8, **clocks):
    ranges = {name: None if mhz is None else SensorRange(min=600, mean=900, max=mhz) for name, mhz in clocks.items()}
    return Telemetry(
        probe="linux", readings=readings, seconds=7, reading_ms=1, clocks_mhz=ranges, throttled=throttled,
        reasons=("too hot",) if throttled else (),
    )  # fmt: skip


def test_a_machine_with_some_load_is_valid():
    """A laptop with a browser, or a runner of a build service: a high load average alone says nothing."""
    assert reasons_of_machine(load(), telemetry(cpu0=1500), {"cpu0": 1500}) == ()
    unknown = dict.fromkeys(("other_cores", "stolen", "waited", "quota_periods", "load_before", "load_after"))
    assert reasons_of_machine(load(**unknown), telemetry(), {}) == ()
    assert reasons_of_machine(None, None, {}) == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"waited": 0.06}, "the inference waited 6.0 % of its time for a core, because other work used the cores"),
        ({"stolen": 0.3}, "the hypervisor gave 30.0 % of the processor's time to other virtual machines (steal)"),
        ({"quota_periods": 0.5}, "the processor quota of the container was used up in 50.0 % of the periods"),
        ({"other_cores": 2.1}, "other programs used 2.1 of 4 cores"),
    ],
)
def test_each_kind_of_load_is_a_reason(changes, reason):
    assert reasons_of_machine(load(**changes), telemetry(), {}) == (reason,)


def test_all_reasons_are_named():
    found = reasons_of_machine(load(waited=0.5, stolen=0.2), telemetry(throttled=True), {})
    assert len(found) == 3
    assert found[0] == "the machine was throttled: too hot"


@pytest.mark.parametrize(
    ("clocks", "options", "valid"),
    [
        ({"cpu0": 1000.0}, {}, False),
        ({"cpu0": 1400.0}, {}, True),
        ({"cpu0": 600.0, "cpu4": 2000.0}, {}, True),  # the inference ran on the other cluster
        ({"cpu0": 600.0, "cpu4": 1200.0}, {}, False),
        ({"cpu0": None, "gpu": 100.0}, {}, True),
        ({"cpu0": 1000.0}, {"readings": 2}, True),  # both while no inference ran
        ({"cpu0": 1000.0}, {"own_cores": 0.2}, True),  # the GPU computes
    ],
)
def test_clocks_below_the_nominal_ones_are_a_reason_while_the_processor_computes(clocks, options, valid):
    own = {"own_cores": options.pop("own_cores", 1.0)}
    found = reasons_of_machine(load(**own), telemetry(**options, **clocks), {"cpu0": 1500.0, "cpu4": 2000.0})
    assert (found == ()) == valid
    if not valid:
        assert "MHz, and no other core reached more" in found[0]


def test_a_drift_is_a_reason():
    drift = Drift(ratio=1.2, low=1.1, high=1.3, drifted=True)
    [reason] = reasons_of_drift(drift)
    assert "took 1.20 times as long as in the first quarter (1.10 to 1.30)" in reason
    assert reasons_of_drift(None) == ()
    assert reasons_of_drift(Drift(ratio=1.02, low=0.9, high=1.1, drifted=False)) == ()

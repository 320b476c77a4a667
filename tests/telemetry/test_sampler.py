"""The sampler reads while something else runs, and sums up."""

import threading

import pytest

from edgeexit.telemetry import Reading, Sampler, energy_mj
from edgeexit.telemetry.jetson import JetsonProbe
from tests.telemetry.board import make_board, write


class Scripted:
    """A probe whose readings a test wrote down; then the last one again and again."""

    name = "scripted"
    total_rail = "ALL"

    def __init__(self, *readings):
        self._readings = list(readings)
        self.enough = threading.Event()
        self.threads = []

    def read(self):
        self.threads.append(threading.current_thread().name)
        reading = self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]
        if len(self._readings) == 1:
            self.enough.set()
        return reading

    def settings(self):
        return {}


def reading(at, total=None, throttled=None, reasons=(), **temperatures):
    return Reading(
        monotonic_s=at, total_mw=total, power_mw={"ALL": total}, temperatures_c=temperatures, throttled=throttled,
        reasons=reasons,
    )  # fmt: skip


def test_a_run_is_summed_up_with_its_energy():
    probe = Scripted(
        reading(0.0, 1000.0, throttled=False, cpu=40.0, gpu=None),
        reading(1.0, 3000.0, throttled=True, reasons=("hot",), cpu=50.0, gpu=None),
        reading(3.0, 1000.0, throttled=False, cpu=45.0, gpu=None),
    )
    with Sampler(probe, interval_s=0.001) as sampler:
        assert probe.enough.wait(5)
    told = sampler.summary()
    assert told.seconds == 3
    assert told.energy_mj == 2000 + 4000
    assert told.temperatures_c["cpu"].low == 40
    assert told.temperatures_c["cpu"].high == 50
    assert told.temperatures_c["gpu"] is None
    assert told.power_mw["ALL"].high == 3000
    assert told.throttled is True  # once is enough
    assert told.reasons == ("hot",)
    assert told.total_rail == "ALL"
    assert told.readings == len(probe.threads)


def test_it_reads_in_a_thread_of_its_own_and_is_gone_at_the_end():
    probe = Scripted(reading(0.0), reading(1.0), reading(2.0))
    with Sampler(probe, interval_s=0.001):
        assert probe.enough.wait(5)
    assert set(probe.threads[1:-1]) == {"telemetry"}
    assert "telemetry" not in {thread.name for thread in threading.enumerate()}


def test_it_is_gone_after_an_interrupt_too():
    probe = Scripted(reading(0.0))
    with pytest.raises(KeyboardInterrupt), Sampler(probe, interval_s=60):
        raise KeyboardInterrupt
    assert "telemetry" not in {thread.name for thread in threading.enumerate()}


def test_what_nobody_can_tell_stays_unknown():
    with Sampler(Scripted(reading(0.0)), interval_s=60) as sampler:
        pass
    told = sampler.summary()
    assert told.throttled is None
    assert told.energy_mj is None
    assert told.power_mw == {"ALL": None}


def test_a_reading_without_power_leaves_a_gap_and_no_zero():
    assert energy_mj([reading(0.0, 1000.0), reading(1.0), reading(2.0, 1000.0)]) == 2000
    assert energy_mj([reading(0.0, 1000.0), reading(1.0)]) is None


def test_a_board_that_gets_hot_meanwhile_is_told(tmp_path):
    root = make_board("jetson-agx-orin", tmp_path)
    with Sampler(JetsonProbe(root), interval_s=60) as sampler:
        write(root, "/sys/class/thermal/thermal_zone0/temp", 99500)
    told = sampler.summary()
    assert told.throttled is True
    assert told.temperatures_c["cpu-thermal"].high == 99.5

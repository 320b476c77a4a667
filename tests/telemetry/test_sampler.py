"""The sampler reads in the background and summarises the readings."""

import threading

import pytest

from edgeexit.telemetry import Reading, Sampler, energy_mj
from edgeexit.telemetry.jetson import JetsonProbe
from tests.telemetry.board import make_board, write


class ScriptedProbe:
    """A probe that returns given readings, and repeats the last one."""

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


def test_the_summary_has_ranges_energy_and_throttling():
    probe = ScriptedProbe(
        reading(0.0, 1000.0, throttled=False, cpu=40.0, gpu=None),
        reading(1.0, 3000.0, throttled=True, reasons=("hot",), cpu=50.0, gpu=None),
        reading(3.0, 1000.0, throttled=False, cpu=45.0, gpu=None),
    )
    with Sampler(probe, interval_s=0.001) as sampler:
        assert probe.enough.wait(5)
    summary = sampler.summary()
    assert summary.seconds == 3
    assert summary.energy_mj == 2000 + 4000
    assert summary.temperatures_c["cpu"].min == 40
    assert summary.temperatures_c["cpu"].max == 50
    assert summary.temperatures_c["gpu"] is None
    assert summary.power_mw["ALL"].max == 3000
    assert summary.throttled is True  # one throttled reading is enough
    assert summary.reasons == ("hot",)
    assert summary.total_rail == "ALL"
    assert summary.readings == len(probe.threads)


def test_readings_run_in_a_separate_thread_that_ends_with_the_sampler():
    probe = ScriptedProbe(reading(0.0), reading(1.0), reading(2.0))
    with Sampler(probe, interval_s=0.001):
        assert probe.enough.wait(5)
    assert set(probe.threads[1:-1]) == {"telemetry"}
    assert "telemetry" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_ends_after_an_interrupt():
    probe = ScriptedProbe(reading(0.0))
    with pytest.raises(KeyboardInterrupt), Sampler(probe, interval_s=60):
        raise KeyboardInterrupt
    assert "telemetry" not in {thread.name for thread in threading.enumerate()}


def test_values_that_no_sensor_gives_stay_unknown():
    with Sampler(ScriptedProbe(reading(0.0)), interval_s=60) as sampler:
        pass
    summary = sampler.summary()
    assert summary.throttled is None
    assert summary.energy_mj is None
    assert summary.power_mw == {"ALL": None}


def test_a_reading_without_power_does_not_count_as_zero_power():
    assert energy_mj([reading(0.0, 1000.0), reading(1.0), reading(2.0, 1000.0)]) == 2000
    assert energy_mj([reading(0.0, 1000.0), reading(1.0)]) is None


def test_a_board_that_becomes_hot_during_the_run_is_throttled(tmp_path):
    root = make_board("jetson-agx-orin", tmp_path)
    with Sampler(JetsonProbe(root), interval_s=60) as sampler:
        write(root, "/sys/class/thermal/thermal_zone0/temp", 99500)
    summary = sampler.summary()
    assert summary.throttled is True
    assert summary.temperatures_c["cpu-thermal"].max == 99.5

"""Readings of each board's probe, from listings of real boards (see boards/README.md)."""

import pytest

from edgeexit.telemetry import find_probe
from edgeexit.telemetry.jetson import JetsonProbe, power_mode, read_power_mode
from edgeexit.telemetry.linux import LinuxProbe
from edgeexit.telemetry.raspberry_pi import RaspberryPiProbe
from tests.telemetry.board import fake_program, make_board, write

OC3 = "/sys/class/hwmon/hwmon3/oc3_event_cnt"


class Clock:
    """A clock that a test advances."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_jetson_nano_reads_its_total_power_through_iio(tmp_path):
    reading = find_probe("jetson", make_board("jetson-nano", tmp_path)).read()
    assert reading.power_mw == {"POM_5V_IN": 900, "POM_5V_GPU": 0, "POM_5V_CPU": 123}
    assert reading.total_mw == 900
    assert reading.temperatures_c == {
        "AO-therm": 41.5, "CPU-therm": 34.0, "GPU-therm": 31.0, "PLL-therm": 31.5, "thermal-fan-est": 33.0,
    }  # fmt: skip
    assert reading.clocks_mhz == {"cpu0": 1479, "gpu": 76.8}
    assert reading.throttled is False


def test_an_agx_orin_has_named_rails_and_no_total_power(tmp_path):
    probe = find_probe("jetson", make_board("jetson-agx-orin", tmp_path))
    reading = probe.read()
    assert reading.power_mw == {
        "VDD_GPU_SOC": 3362.2, "VDD_CPU_CV": 480.3, "VIN_SYS_5V0": 4868.6, "VDDQ_VDD2_1V8AO": 397.4,
    }  # fmt: skip
    assert reading.total_mw is None
    assert probe.total_rail is None
    assert reading.temperatures_c["gpu-thermal"] is None  # -256 degrees: the sensor is switched off
    assert reading.clocks_mhz == {"cpu0": 2201.6, "cpu4": 2201.6, "cpu8": 729.6, "gpu": 407}
    assert probe.settings() == {
        "governor": "schedutil",
        "maximum clock": "2201.6 MHz",
        "power mode": "MAXN",
        "release": "R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025",
    }


def test_an_orin_nano_reads_total_power_fan_and_the_governor_of_each_cluster(tmp_path):
    probe = find_probe("jetson", make_board("jetson-orin-nano", tmp_path))
    reading = probe.read()
    assert probe.total_rail == "VDD_IN"
    assert reading.total_mw == reading.power_mw["VDD_IN"] == 4784.6
    assert reading.fans_rpm == {"pwm_tach": 2140}
    assert reading.temperatures_c["cv0-thermal"] is None  # the file does not exist while the engine is suspended
    assert probe.settings()["governor"] == "cpu0 schedutil, cpu4 performance"
    assert probe.settings()["power mode"] == "MAXN_SUPER"


def test_brief_over_current_events_count_as_throttling_above_ten_per_second(tmp_path):
    """An oc3 event lasts a millisecond, so ten per second affect one percent of the time."""
    root, clock = make_board("jetson-orin-nano", tmp_path), Clock()
    probe = JetsonProbe(root, clock=clock)
    assert probe.read().throttled is False
    write(root, OC3, 27392)
    clock.now += 1
    assert probe.read().throttled is False
    write(root, OC3, 27392 + 11)
    clock.now += 1
    reading = probe.read()
    assert reading.throttled is True
    assert reading.reasons == ("11 over-current or under-voltage events (oc3)",)
    write(root, OC3.replace("oc3", "oc1"), 1)
    clock.now += 1
    assert probe.read().reasons == ("1 over-current or under-voltage events (oc1)",)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("/sys/class/thermal/thermal_zone0/temp", 99000, "cpu-thermal is at 99.0 °C, its limit is 99 °C"),
        ("/sys/class/thermal/cooling_device0/cur_state", 1, "cpu-throttle-alert is active"),
        (
            "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_crit_alarm",
            1,
            "the current of VDD_GPU_SOC is above its critical limit",
        ),
    ],
)
def test_a_throttled_jetson_gives_the_reason(tmp_path, file, content, reason):
    root = make_board("jetson-agx-orin", tmp_path)
    probe = JetsonProbe(root)
    assert probe.read().throttled is False
    write(root, file, content)
    reading = probe.read()
    assert reading.throttled is True
    assert reading.reasons == (reason,)


def test_an_active_fan_does_not_count_as_throttling(tmp_path):
    assert JetsonProbe(make_board("jetson-nano", tmp_path)).read().reasons == ()


def test_a_raspberry_pi_4_reports_a_capped_clock_and_has_no_power_sensor(tmp_path):
    probe = find_probe("raspberry-pi", make_board("raspberry-pi-4", tmp_path))
    reading = probe.read()
    assert reading.throttled is True
    assert reading.reasons == ("clock capped",)
    assert reading.temperatures_c == {"cpu-thermal": 80.601, "soc": 80.6}
    assert reading.clocks_mhz == {"cpu0": 1800, "arm": 1141.118}  # the requested and the actual clock
    assert reading.power_mw == {}
    assert probe.settings()["throttled since boot"] == "clock capped, throttled"


def test_a_raspberry_pi_5_has_rails_and_no_total_power(tmp_path):
    reading = find_probe("raspberry-pi", make_board("raspberry-pi-5", tmp_path)).read()
    assert len(reading.power_mw) == 12  # EXT5V and BATT have a voltage and no current
    assert reading.power_mw["VDD_CORE"] == pytest.approx(946.5799 * 0.7209762, abs=0.1)
    assert reading.total_mw is None
    assert reading.throttled is False
    assert reading.fans_rpm == {"pwmfan": 0}


def test_a_throttle_bit_set_since_the_previous_reading_counts_once(tmp_path):
    root = make_board("raspberry-pi-5", tmp_path)
    probe = RaspberryPiProbe(root)
    assert probe.read().throttled is False
    fake_program(root, "vcgencmd", {"get_throttled": "throttled=0x50000"})
    reading = probe.read()
    assert reading.throttled is True
    assert reading.reasons == ("under-voltage", "throttled")
    assert reading.power_mw == {}  # the fake program fails for other arguments
    assert reading.temperatures_c["soc"] is None
    assert probe.read().throttled is False  # it counts once


def test_a_machine_without_sensors_gives_an_empty_reading(tmp_path):
    probe = find_probe("none", make_board("x86-server", tmp_path))
    reading = probe.read()
    assert (reading.temperatures_c, reading.power_mw, reading.clocks_mhz, reading.fans_rpm) == ({}, {}, {}, {})
    assert reading.total_mw is None
    assert reading.throttled is None
    assert probe.settings() == {}


def test_a_laptop_measures_power_by_energy_counters_that_may_wrap_around(tmp_path):
    root, clock = make_board("x86-laptop", tmp_path), Clock()
    probe = LinuxProbe(root, clock=clock)
    first = probe.read()
    assert first.power_mw == {"package-0": None, "psys": None}  # power needs two counter values
    assert first.temperatures_c == {"acpitz": 27.8, "acpitz 2": 29.8, "x86_pkg_temp": 61.0}
    assert first.throttled is False  # a trip point of 0 is unset
    write(root, "/sys/class/powercap/intel-rapl:0/energy_uj", 1000000 + 30_000_000)
    write(root, "/sys/class/powercap/intel-rapl:1/energy_uj", 19_671_150)
    clock.now += 2
    second = probe.read()
    assert second.power_mw == {"package-0": 15000, "psys": 10000}
    assert second.total_mw == 10000


def test_a_throttle_counter_that_increases_means_throttled(tmp_path):
    root = make_board("x86-laptop", tmp_path)
    probe = LinuxProbe(root)
    assert probe.read().throttled is False
    write(root, "/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", 13)
    assert probe.read().reasons == ("cpu0 core throttled by heat",)
    assert probe.read().throttled is False


@pytest.mark.parametrize("telemetry", ["jetson", "raspberry-pi"])
def test_a_machine_that_is_not_the_named_board_uses_the_linux_probe(tmp_path, telemetry):
    assert isinstance(find_probe(telemetry, make_board("x86-laptop", tmp_path)), LinuxProbe)


@pytest.mark.parametrize(
    ("output", "mode"),
    [("NV Power Mode: 15W\n0\n", "15W"), ("NVPM WARN: x\nNV Power Mode: MAXN\n0", "MAXN"), ("?", None)],
)
def test_the_power_mode_is_read_from_the_output_of_nvpmodel(output, mode):
    assert read_power_mode(output) == mode


def test_without_nvpmodel_the_power_mode_is_unknown(tmp_path):
    assert power_mode(tmp_path) is None

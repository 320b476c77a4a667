"""A sensor that is missing, unreadable or invalid is None, and the other sensors are still read."""

import errno
from pathlib import Path

import pytest

from edgeexit.telemetry.jetson import JetsonProbe
from edgeexit.telemetry.linux import LinuxProbe
from edgeexit.telemetry.raspberry_pi import RaspberryPiProbe
from edgeexit.telemetry.sysfs import read_number, read_text
from tests.telemetry.board import fake_program, make_board, write

ZONE = "/sys/class/thermal/thermal_zone0/temp"
RAIL = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
FAILS_WITH_EIO = Path("/proc/self/mem")  # reading its start fails with EIO: no memory is mapped there


@pytest.mark.parametrize(
    "content", ["", "nan", "inf", "-inf", "warm", "1e400", "12 34", "-256000", "999999", "\x00\x00"]
)
def test_an_invalid_value_is_none(tmp_path, content):
    root = make_board("jetson-orin-nano", tmp_path)
    write(root, ZONE, content)
    reading = JetsonProbe(root).read()
    assert reading.temperatures_c["cpu-thermal"] is None
    assert reading.temperatures_c["tj-thermal"] == 51.187


def test_a_sensor_on_a_failing_bus_is_none(tmp_path):
    root = make_board("jetson-orin-nano", tmp_path)
    with pytest.raises(OSError) as refused:
        FAILS_WITH_EIO.read_bytes()
    assert refused.value.errno == errno.EIO
    for file in (
        ZONE,
        f"{RAIL}/curr1_input",
        "/sys/class/hwmon/hwmon2/rpm",
        "/sys/class/devfreq/17000000.gpu/cur_freq",
    ):
        path = root / file.lstrip("/")
        path.unlink()
        path.symlink_to(FAILS_WITH_EIO)
    reading = JetsonProbe(root).read()
    assert reading.temperatures_c["cpu-thermal"] is None
    assert reading.power_mw["VDD_IN"] is None
    assert reading.total_mw is None
    assert reading.power_mw["VDD_SOC"] == 1512.7
    assert reading.fans_rpm == {"pwm_tach": None}
    assert reading.clocks_mhz["gpu"] is None


def test_a_sensor_that_disappears_between_two_readings_is_none(tmp_path):
    root = make_board("jetson-orin-nano", tmp_path)
    probe = JetsonProbe(root)
    assert probe.read().temperatures_c["cpu-thermal"] == 51.187
    (root / ZONE.lstrip("/")).unlink()
    (root / f"{RAIL}/in1_input".lstrip("/")).unlink()
    reading = probe.read()
    assert reading.temperatures_c["cpu-thermal"] is None
    assert reading.total_mw is None


def test_a_folder_in_place_of_a_file_is_none(tmp_path):
    assert read_text(tmp_path) is None
    assert read_number(tmp_path) is None


def test_an_energy_counter_that_only_root_can_read_is_left_out(tmp_path):
    root = make_board("x86-laptop", tmp_path)
    for domain in ("intel-rapl:0", "intel-rapl:1"):
        (root / f"sys/class/powercap/{domain}/energy_uj").unlink()
    assert LinuxProbe(root).read().power_mw == {}


@pytest.mark.parametrize("output", ["throttled=", "throttled=0xZZ", "error=1", ""])
def test_unreadable_throttle_bits_give_an_unknown_status(tmp_path, output):
    root = make_board("raspberry-pi-5", tmp_path)
    fake_program(
        root, "vcgencmd", {"get_throttled": output, "measure_temp": "temp=?'C", "measure_clock arm": "frequency(0)=."}
    )
    (root / ZONE.lstrip("/")).unlink()
    reading = RaspberryPiProbe(root).read()
    assert reading.throttled is None
    assert reading.temperatures_c["soc"] is None
    assert reading.clocks_mhz["arm"] is None


def test_a_pmic_rail_without_a_valid_number_is_left_out(tmp_path):
    root = make_board("raspberry-pi-5", tmp_path)
    lines = ("A_A current(0)=0.5A", "A_V volt(8)=2.0V", "B_A current(1)=0.1.2A", "B_V volt(9)=.V")
    fake_program(root, "vcgencmd", {"pmic_read_adc": "\n".join(lines)})
    assert RaspberryPiProbe(root).read().power_mw == {"A": 1000.0}


def test_a_raspberry_pi_without_vcgencmd_still_reads_the_kernel_sensors(tmp_path):
    root = make_board("raspberry-pi-5", tmp_path)
    (root / "usr/bin/vcgencmd").unlink()
    reading = RaspberryPiProbe(root).read()
    assert reading.temperatures_c == {"cpu-thermal": 47.95}
    assert reading.clocks_mhz == {"cpu0": 1500}
    assert reading.throttled is None  # the zone is below its limit, but the firmware throttles earlier

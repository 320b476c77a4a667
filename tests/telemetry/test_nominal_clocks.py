"""The clock that a processor reaches for any length of time, by which a slow machine is recognised."""

import pytest

from edgeexit.telemetry.clocks import nominal_clocks

KHZ = 1000


def write(root, policy, **files):
    folder = root / "sys/devices/system/cpu/cpufreq" / policy
    folder.mkdir(parents=True)
    for name, mhz in files.items():
        (folder / name).write_text(f"{mhz * KHZ}\n")


@pytest.mark.parametrize(
    ("machine", "files", "expected"),
    [
        ("x86_64", {"base_frequency": 2400, "cpuinfo_max_freq": 4800, "scaling_max_freq": 4800}, 2400),
        ("x86_64", {"base_frequency": 2400, "cpuinfo_max_freq": 4800, "scaling_max_freq": 1200}, 1200),
        ("x86_64", {"cpuinfo_max_freq": 4800, "scaling_max_freq": 4800}, None),  # the boost is not for long
        ("aarch64", {"cpuinfo_max_freq": 1500, "scaling_max_freq": 1500}, 1500),
        ("aarch64", {"cpuinfo_max_freq": 1500, "scaling_max_freq": 918}, 918),  # a power mode
        ("aarch64", {}, None),
    ],
)
def test_the_nominal_clock_is_below_boost_and_within_the_settings(tmp_path, machine, files, expected):
    write(tmp_path, "policy0", **files)
    assert nominal_clocks(tmp_path, machine=machine) == ({} if expected is None else {"cpu0": expected})


def test_amd_processors_have_it_under_another_name(tmp_path):
    write(tmp_path, "policy0", cpuinfo_max_freq=4800)
    (tmp_path / "sys/devices/system/cpu/cpu0/acpi_cppc").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/cpu0/acpi_cppc/nominal_freq").write_text("3000\n")
    assert nominal_clocks(tmp_path, machine="x86_64") == {"cpu0": 3000}


def test_it_is_unknown_on_a_machine_of_which_only_some_cores_are_read(tmp_path):
    for core in range(9):
        write(tmp_path, f"policy{core}", base_frequency=2000)
    assert nominal_clocks(tmp_path, machine="x86_64") == {}
    assert nominal_clocks(tmp_path / "nothing") == {}

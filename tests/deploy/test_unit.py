"""The systemd unit, checked by `systemd-analyze` if that is installed."""

import shutil
import subprocess

import pytest

from edgeexit.deploy.unit import render_unit, unit_name
from edgeexit.errors import ConfigError

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is missing: install systemd")


def lines(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@needs_systemd
@pytest.mark.parametrize("devices", ["none", "raspberry-pi", "gpu"])
@pytest.mark.parametrize("manager", ["system", "user"])
def test_systemd_accepts_the_unit(manager, devices, tmp_path):
    (tmp_path / "current" / "venv" / "bin").mkdir(parents=True)
    program = tmp_path / "current" / "venv" / "bin" / "edgeexit"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "edgeexit.service"
    unit.write_text(render_unit(str(tmp_path), manager=manager, user="daemon", devices=devices))
    result = subprocess.run([ANALYZE, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    messages = [line for line in result.stderr.splitlines() if unit.name in line]
    newer = ("RestartSteps", "RestartMaxDelaySec")  # before version 254, systemd reports that it ignores these options
    assert [line for line in messages if not any(option in line for option in newer)] == []


@needs_systemd
def test_systemd_rates_the_exposure_of_the_unit_ok(tmp_path):
    unit = tmp_path / "edgeexit.service"
    unit.write_text(render_unit("/opt/edgeexit", user="edge"))
    result = subprocess.run(
        [ANALYZE, "security", "--offline=yes", "--threshold=25", unit], capture_output=True, text=True, check=False
    )
    if "unrecognized option" in result.stderr:
        pytest.skip("systemd-analyze is older than 250 and cannot check a file")
    assert result.returncode == 0, result.stdout[-300:]


def test_the_agent_starts_in_the_current_release_and_writes_only_to_its_state():
    text = lines(render_unit("/opt/edgeexit", user="edge", writable_folders=["/data/edgeexit"]))
    assert "WorkingDirectory=/opt/edgeexit/current" in text
    assert "User=edge" in text
    assert "ReadWritePaths=/opt/edgeexit/state /data/edgeexit" in text
    assert "ProtectHome=yes" in text
    assert not any("network-online" in line for line in text)


def test_the_unit_has_a_folder_for_the_endpoints_socket():
    assert "\nRuntimeDirectory=edgeexit\n" in render_unit("/opt/edgeexit", user="edge")
    assert "\nRuntimeDirectory=edgeexit-lab\n" in render_unit("/home/edge/lab", manager="user")


def test_a_deployment_in_a_home_folder_is_readable():
    assert "ProtectHome=read-only" in lines(render_unit("/home/pi/edgeexit"))
    assert "ProtectHome=read-only" in lines(render_unit("/opt/edgeexit", writable_folders=["/home/pi/state"]))
    assert "ProtectHome=read-only" in lines(render_unit("/opt/edgeexit", python="/home/pi/.local/bin/python3.12"))


def test_a_users_unit_has_no_option_that_needs_privileges():
    text = lines(render_unit("/home/pi/edgeexit", manager="user", user="pi"))
    assert not any(
        line.startswith(("User=", "Protect", "Private", "Device", "ReadWrite", "Capability")) for line in text
    )
    assert "NoNewPrivileges=yes" in text


def test_the_device_files_of_a_gpu_are_accessible():
    text = lines(render_unit("/opt/edgeexit", devices="gpu"))
    assert not any(line.startswith(("PrivateDevices", "Device", "ProtectClock")) for line in text)


@pytest.mark.parametrize(
    "folder", ["/opt/edge exit", "/opt/edge%i", "/opt/a\nExecStart=/bin/sh", "opt/edgeexit", "/opt/$HOME"]
)
def test_a_folder_with_characters_that_systemd_interprets_is_refused(folder):
    with pytest.raises(ConfigError):
        render_unit(folder)


def test_the_unit_is_named_after_the_folder():
    assert unit_name("/home/pi/edgeexit") == "edgeexit"
    assert unit_name("/srv/line 2") == "edgeexit-line-2"

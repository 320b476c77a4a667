"""`edgeexit deploy` as it is typed: the default command, what it prints, and one line for what goes wrong."""

import json
import subprocess
import sys

import pytest

DEPLOY = [sys.executable, "-m", "edgeexit", "deploy"]


@pytest.fixture
def command(device):
    def run(*words):
        options = [word for option in device.sshd.address().options for word in ("-o", option)]
        where = ["--port", str(device.sshd.port), "--identity", str(device.sshd.folder / "client")]
        return subprocess.run(
            [*DEPLOY, *map(str, words), *where, *options, "--path", str(device.root)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_push_needs_no_name_and_status_shows_what_is_there(device, bundles, configured, command):
    packages = ["--wheel", device.wheel, "--wheelhouse", device.wheels, "--service", "process"]
    config = configured()
    planned = command(bundles[0].path, "127.0.0.1", "--config", config, "--dry-run", *packages)
    assert planned.returncode == 0, planned.stderr
    assert "would send" in planned.stdout
    pushed = command("--json", bundles[0].path, "127.0.0.1", "--config", config, *packages)
    assert pushed.returncode == 0, pushed.stderr
    release = json.loads(pushed.stdout)["release"]
    assert "not restarted at boot" in pushed.stderr
    shown = command("status", "127.0.0.1")
    assert release in shown.stdout
    assert "serves" in shown.stdout
    assert f"--path {device.root}" in shown.stdout.splitlines()[-1]
    refused = command("rollback", "127.0.0.1")
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert "is the first on this device" in line


def test_what_is_wrong_is_one_line_and_exit_code_2(device, bundles, tmp_path, command):
    bundle = bundles[0].path
    for words, said in [
        ((tmp_path, "127.0.0.1"), "is not a bundle"),
        ((bundle, "127.0.0.1", "--config", tmp_path / "no.toml"), "no.toml"),
        ((bundle, "127.0.0.1", "--target", "arm64-cpu", "--wheel", device.wheel), "the device is"),
        ((bundle, "127.0.0.1", "--wheel", device.wheel, "--service", "process"), "needs --config"),
        ((bundle, "-oProxyCommand=x"), "deploy"),
    ]:
        result = command(*words)
        assert result.returncode == 2
        line = result.stderr.strip().splitlines()[-1]
        assert line.startswith("error:")
        assert said in line


def test_help_shows_every_command_with_examples(command):
    shown = subprocess.run([*DEPLOY, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(word in shown for word in ("push", "rollback", "status", "unit", "Examples"))


def test_a_unit_is_printed_for_installs_by_hand():
    printed = subprocess.run(
        [*DEPLOY, "unit", "--path", "/opt/edgeexit", "--user", "edge"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed.startswith("[Unit]\n")
    assert "User=edge" in printed

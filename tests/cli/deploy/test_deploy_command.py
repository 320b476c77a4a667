"""`edgeexit deploy` on the command line: the default command, its output, and errors in one line."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from tests.bundles import make_bundle

DEPLOY = [sys.executable, "-m", "edgeexit", "deploy"]


@pytest.fixture
def command(device):
    def run(*arguments):
        options = [argument for option in device.sshd.address().options for argument in ("-o", option)]
        where = ["--port", str(device.sshd.port), "--identity", str(device.sshd.folder / "client")]
        return subprocess.run(
            [*DEPLOY, *map(str, arguments), *where, *options, "--path", str(device.root)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_push_is_the_default_command_and_status_shows_the_release(device, bundles, write_config, command):
    packages = ["--wheel", device.wheel, "--wheelhouse", device.wheels, "--service", "process"]
    config = write_config()
    planned = command(bundles[0].path, "127.0.0.1", "--config", config, "--dry-run", *packages)
    assert planned.returncode == 0, planned.stderr
    assert "would send" in planned.stdout
    pushed = command("--json", bundles[0].path, "127.0.0.1", "--config", config, *packages)
    assert pushed.returncode == 0, pushed.stderr
    release = json.loads(pushed.stdout)["release"]
    assert "not restarted at boot" in pushed.stderr
    steps = [line for line in pushed.stderr.splitlines() if line.endswith(" ...")]
    assert steps == [f"{step} ..." for step in ("preflight", "copy", "environment", "switch", "start", "healthy")]
    shown = command("status", "127.0.0.1")
    assert release in shown.stdout
    assert "serves" in shown.stdout
    last = shown.stdout.splitlines()[-1]
    assert last.startswith("next: edgeexit deploy BUNDLE 127.0.0.1 --port")
    assert last.endswith(f"--path {device.root}")
    for option in device.sshd.address().options:
        assert f"-o {shlex.quote(option)}" in last
    failed = command("rollback", "127.0.0.1")
    assert failed.returncode == 2
    (line,) = failed.stderr.strip().splitlines()
    assert "is the first on this device" in line


def test_status_advises_a_rollback_only_if_the_current_release_fails(device, bundles, write_config, command, tmp_path):
    assert command("status", "127.0.0.1").stdout.splitlines()[-1].endswith(f"--path {device.root}")
    fitted = make_bundle(tmp_path / "fitted", seed=3)
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.45, 0.7))
    fitted.write_policy(PolicyDocument(bundle=fitted.digest, revision=0, policy=policy))
    device.push(bundles[0], write_config())
    device.push(fitted)
    view = json.loads(command("status", "127.0.0.1", "--json").stdout)
    assert [release["has_policy"] for release in view["releases"]] == [False, True]
    assert "deploy BUNDLE" in command("status", "127.0.0.1").stdout.splitlines()[-1]
    shown = command("status", "127.0.0.1").stdout
    assert "previous" in shown
    assert "never healthy" not in shown
    (device.root / "current" / "healthy").unlink()  # as after a power cut during the start
    assert "current, never healthy" in command("status", "127.0.0.1").stdout
    os.kill(view["pid"], signal.SIGKILL)
    assert "deploy rollback" in command("status", "127.0.0.1").stdout.splitlines()[-1]


def test_an_error_is_one_line_with_exit_code_2(device, bundles, tmp_path, command):
    bundle = bundles[0].path
    for arguments, expected in [
        ((tmp_path, "127.0.0.1"), "is not a bundle"),
        ((bundle, "127.0.0.1", "--config", tmp_path / "no.toml"), "no.toml"),
        ((bundle, "127.0.0.1", "--target", "arm64-cpu", "--wheel", device.wheel), "the device is"),
        ((bundle, "127.0.0.1", "--wheel", device.wheel, "--service", "process"), "needs --config"),
        ((bundle, "-oProxyCommand=x"), "deploy"),
        ((bundle, "127.0.0.1", "-o", "foo"), "-o 'foo': expected NAME=VALUE"),
    ]:
        result = command(*arguments)
        assert result.returncode == 2
        line = result.stderr.strip().splitlines()[-1]
        assert line.startswith("error:")
        assert expected in line


def test_help_lists_every_command_with_examples(command):
    shown = subprocess.run([*DEPLOY, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(word in shown for word in ("push", "rollback", "status", "unit", "Examples"))


def test_unit_prints_the_systemd_unit():
    printed = subprocess.run(
        [*DEPLOY, "unit", "--path", "/opt/edgeexit", "--user", "edge"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed.startswith("[Unit]\n")
    assert "User=edge" in printed

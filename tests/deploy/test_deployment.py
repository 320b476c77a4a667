"""Complete deployments to a real sshd with the real agent: which release serves, which remain installed, rollbacks.

The packages that edgeexit needs are empty wheels (empty_wheels.py); tests/arm installs the real ones.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request

import msgspec
import pytest

from edgeexit.deploy import NotHealthyError, device_status, roll_back
from edgeexit.deploy import device as device_module
from edgeexit.errors import DeployError
from edgeexit.signing import generate_key
from tests.deploy.empty_wheels import write_wheel
from tests.recorded_progress import RecordedProgress


def served_bundles(result):
    address = f"{result.endpoint}/v2/models/tiny"
    with urllib.request.urlopen(address, timeout=10) as reply:  # noqa: S310 - on this machine
        return json.load(reply)["versions"]


def test_releases_replace_each_other_and_a_rollback_returns_to_the_previous_one(device, bundles, write_config):
    one, two = bundles
    config = write_config('trusted_keys = ["keys/calibrator.pub"]')
    (config.parent / "keys").mkdir()
    generate_key(config.parent / "keys" / "calibrator.pem")

    first = device.push(one, config)
    assert (first.outcome, first.replaces) == ("healthy", None)
    assert served_bundles(first) == [one.digest]
    assert device.steps == ["preflight", "copy", "environment", "switch", "start", "healthy"]
    release = (device.root / "current").resolve()
    for name in ("agent.toml", "keys/calibrator.pub"):
        assert stat.S_IMODE((release / name).stat().st_mode) == 0o600
    assert not list(release.rglob("*.pem"))  # the configuration does not name the private key
    (device.root / "state" / "mark").write_text("from the first release")

    second = device.push(two)  # with the configuration of the current release
    assert served_bundles(second) == [two.digest]
    assert (second.replaces, second.environment) == (first.release, "reused")
    assert (device.root / "current" / "state" / "mark").read_text() == "from the first release"
    assert (device.root / "current" / "keys" / "calibrator.pub").is_file()

    third = device.push(one, write_config("audit_fraction = 0.5", "other"))
    assert sorted(path.name for path in (device.root / "releases").iterdir()) == [second.release, third.release]
    assert not (device.root / "incoming").exists()
    with pytest.raises(DeployError, match=first.release):
        roll_back(device.sshd.address(), to=first.release, folder=str(device.root))

    rollback = roll_back(device.sshd.address(), folder=str(device.root))
    assert rollback.release == second.release
    assert served_bundles(second) == [two.digest]
    status = device_status(device.sshd.address(), folder=str(device.root))
    assert status.serving
    assert [release.current for release in status.releases] == [True, False]
    assert {release.start_timeout_s for release in status.releases} == {60.0}  # a rollback waits as long
    assert stat.S_IMODE((device.root / "agent.log").stat().st_mode) == 0o600
    assert stat.S_IMODE((device.root / "state").stat().st_mode) == 0o700


def test_the_same_deployment_does_nothing_unless_the_agent_is_not_healthy(device, bundles, write_config):
    config = write_config()
    first = device.push(bundles[0], config)
    pid = (device.root / "agent.pid").read_text()
    again = device.push(bundles[0], config)
    assert (again.outcome, again.release, again.sent_bytes) == ("unchanged", first.release, 0)
    assert (device.root / "agent.pid").read_text() == pid

    os.kill(int(pid), signal.SIGKILL)
    repaired = device.push(bundles[0], config)
    assert (repaired.outcome, repaired.sent_bytes) == ("healthy", 0)
    assert served_bundles(repaired) == [bundles[0].digest]

    (device.root / "current" / "healthy").unlink()  # as after a power cut during the start
    checked = device.push(bundles[0], config)
    assert (checked.outcome, checked.sent_bytes) == ("healthy", 0)
    assert (device.root / "current" / "healthy").is_file()


def test_a_release_that_does_not_become_healthy_is_rolled_back_and_its_log_is_reported(device, bundles, write_config):
    one, two = bundles
    first = device.push(one, write_config())
    with pytest.raises(NotHealthyError) as raised:
        device.push(two, write_config('trusted_keys = ["/no/such/key.pub"]', "failing"))
    assert f"rolled back to {first.release}, which serves again" in str(raised.value)
    assert "/no/such/key.pub" in "\n".join(raised.value.log)
    assert device.current == first.release
    assert served_bundles(first) == [one.digest]
    assert device.steps[-1] == "rollback"


def test_a_first_release_that_does_not_become_healthy_is_stopped(device, bundles, write_config):
    with pytest.raises(NotHealthyError, match="no earlier release"):
        device.push(bundles[0], write_config('trusted_keys = ["/no/such/key.pub"]'))
    assert device.current is None
    status = device_status(device.sshd.address(), folder=str(device.root))
    assert (status.current, status.pid) == (None, None)
    with pytest.raises(DeployError, match="nothing is deployed"):
        roll_back(device.sshd.address(), folder=str(device.root))


def test_a_dry_run_changes_nothing(device, bundles, write_config):
    planned = device.push(bundles[0], write_config(), dry_run=True)
    assert (planned.outcome, planned.release) == ("planned", None)
    assert planned.sent_bytes > 10_000
    assert not (device.root / "releases").exists()


def test_a_second_deployment_at_the_same_time_is_refused(device, bundles, write_config, monkeypatch):
    monkeypatch.setattr(device_module, "_LOCK_TIMEOUT_S", 0.0)
    errors = []

    class DeployingMeanwhile(RecordedProgress):
        def advance(self, amount=1, total=None):
            if not errors:
                with pytest.raises(
                    DeployError, match=r"another deployment has been running in .* started by \S+@"
                ) as error:
                    device.push(bundles[1], config)
                errors.append(error)

    config = write_config()
    assert device.push(bundles[0], config, DeployingMeanwhile()).outcome == "healthy"
    assert errors


def test_packages_that_cannot_be_installed_are_named_and_the_agent_is_not_touched(
    device, bundles, write_config, tmp_path
):
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    write_wheel(incomplete, "numpy", "99.0", {})
    with pytest.raises(DeployError, match=r"the packages cannot be installed: .*No matching distribution") as raised:
        device.push(bundles[0], write_config(), wheelhouse=incomplete)
    assert "\n" not in str(raised.value)
    assert device.current is None
    assert not any((venv / "bin").exists() and not (venv / "complete").exists() for venv in device.root.glob("venvs/*"))


def test_a_client_that_is_killed_leaves_no_lock(device, bundles, write_config):
    config = write_config()
    first = device.push(bundles[0], config)
    program = """
import sys, time
from pathlib import Path
import msgspec
from edgeexit.deploy import Address, DeployOptions, deploy
from edgeexit.progress import Progress

class Stop(Progress):
    def advance(self, amount=1, total=None):
        print("copying", flush=True)
        time.sleep(60)

address = msgspec.convert(msgspec.json.decode(sys.argv[1]), Address, dec_hook=lambda kind, text: kind(text))
bundle, wheel, wheelhouse = (Path(argument) for argument in sys.argv[3:])
options = DeployOptions(
    bundle=bundle, address=address, folder=sys.argv[2], wheel=wheel, wheelhouse=wheelhouse, service="process"
)
deploy(options, progress=Stop())
"""
    address = msgspec.json.encode(device.sshd.address(), enc_hook=str).decode()
    client = subprocess.Popen(
        [sys.executable, "-c", program, address, device.root, bundles[1].path, device.wheel, device.wheels],
        stdout=subprocess.PIPE,
    )
    assert client.stdout.readline() == b"copying\n"
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    assert device.current == first.release
    assert device.push(bundles[1]).outcome == "healthy"
    assert device.current != first.release

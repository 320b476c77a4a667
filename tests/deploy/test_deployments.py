"""Whole deployments to a real sshd, with the real agent: what serves, what is kept, what comes back.

The packages that edgeexit needs are stand-ins (stand_ins.py), so nothing here shows that real wheels install.
"""

import json
import os
import signal
import stat
import urllib.request

import pytest

from edgeexit.deploy import NotHealthyError, device_status, roll_back
from edgeexit.deploy import device as device_module
from edgeexit.errors import DeployError
from edgeexit.signing import generate_key
from tests.deploy.stand_ins import write_wheel


def served(outcome):
    address = f"{outcome.endpoint}/v2/models/tiny"
    with urllib.request.urlopen(address, timeout=10) as reply:  # noqa: S310 - of this machine
        return json.load(reply)["versions"]


def test_the_life_of_a_device(device, bundles, configured):
    one, two = bundles
    config = configured('trusted_keys = ["keys/calibrator.pub"]')
    (config.parent / "keys").mkdir()
    generate_key(config.parent / "keys" / "calibrator.pem")

    first = device.push(one, config)
    assert (first.outcome, first.replaces) == ("healthy", None)
    assert served(first) == [one.digest]
    assert device.steps == ["preflight", "copy", "environment", "switch", "start", "healthy"]
    release = (device.root / "current").resolve()
    for name in ("agent.toml", "keys/calibrator.pub"):
        assert stat.S_IMODE((release / name).stat().st_mode) == 0o600
    assert not list(release.rglob("*.pem"))  # named by nothing, so it stays at home
    (device.root / "state" / "mark").write_text("kept")

    second = device.push(two)  # the configuration is the one that is there
    assert served(second) == [two.digest]
    assert (second.replaces, second.environment) == (first.release, "kept")
    assert (device.root / "current" / "state" / "mark").read_text() == "kept"
    assert (device.root / "current" / "keys" / "calibrator.pub").is_file()

    third = device.push(one, configured("audit_fraction = 0.5", "other"))
    assert sorted(path.name for path in (device.root / "releases").iterdir()) == [second.release, third.release]
    assert not (device.root / "incoming").exists()
    with pytest.raises(DeployError, match=first.release):
        roll_back(device.sshd.address(), to=first.release, folder=str(device.root))

    back = roll_back(device.sshd.address(), folder=str(device.root))
    assert back.release == second.release
    assert served(second) == [two.digest]
    view = device_status(device.sshd.address(), folder=str(device.root))
    assert view.serving
    assert [release.current for release in view.releases] == [True, False]


def test_the_same_again_does_nothing_unless_the_agent_is_down_or_was_never_judged(device, bundles, configured):
    config = configured()
    first = device.push(bundles[0], config)
    pid = (device.root / "agent.pid").read_text()
    again = device.push(bundles[0], config)
    assert (again.outcome, again.release, again.send_bytes) == ("unchanged", first.release, 0)
    assert (device.root / "agent.pid").read_text() == pid

    os.kill(int(pid), signal.SIGKILL)
    repaired = device.push(bundles[0], config)
    assert (repaired.outcome, repaired.send_bytes) == ("healthy", 0)
    assert served(repaired) == [bundles[0].digest]

    (device.root / "current" / "healthy").unlink()  # as after a power cut while it started
    judged = device.push(bundles[0], config)
    assert (judged.outcome, judged.send_bytes) == ("healthy", 0)
    assert (device.root / "current" / "healthy").is_file()


def test_a_release_that_does_not_get_healthy_is_taken_back_with_its_last_words(device, bundles, configured):
    one, two = bundles
    first = device.push(one, configured())
    unwanted = configured('signed_bundle = true\ntrusted_keys = ["/no/such/key.pub"]', "unwanted")
    two.path.joinpath("signature.json").write_text("{}")
    try:
        with pytest.raises(NotHealthyError) as refused:
            device.push(two, unwanted)
    finally:
        two.path.joinpath("signature.json").unlink()
    assert f"rolled back to {first.release}, which serves again" in str(refused.value)
    assert "/no/such/key.pub" in "\n".join(refused.value.log)
    assert device.current == first.release
    assert served(first) == [one.digest]
    assert device.steps[-1] == "rollback"


def test_a_first_release_that_does_not_get_healthy_leaves_nothing_running(device, bundles, configured):
    with pytest.raises(NotHealthyError, match="no earlier release"):
        device.push(bundles[0], configured('trusted_keys = ["/no/such/key.pub"]'))
    assert device.current is None
    view = device_status(device.sshd.address(), folder=str(device.root))
    assert (view.current, view.pid) == (None, None)
    with pytest.raises(DeployError, match="nothing is deployed"):
        roll_back(device.sshd.address(), folder=str(device.root))


def test_a_dry_run_writes_nothing(device, bundles, configured):
    planned = device.push(bundles[0], configured(), dry_run=True)
    assert (planned.outcome, planned.release) == ("planned", None)
    assert planned.send_bytes > 10_000
    assert not (device.root / "releases").exists()


def test_another_deployment_at_work_is_named(device, bundles, configured, monkeypatch):
    monkeypatch.setattr(device_module, "_LOCK_PATIENCE_S", 0.0)
    refused = []

    def meanwhile(_sent, _total):
        if not refused:
            steps, said = device.steps, device.said
            with pytest.raises(DeployError, match=r"another deployment works in .* by \S+@") as error:
                device.push(bundles[1], config)
            refused.append(error)
            device.steps, device.said = steps, said

    config = configured()
    assert device.push(bundles[0], config, on_bytes=meanwhile).outcome == "healthy"
    assert refused


def test_packages_that_cannot_be_had_are_named_and_nothing_is_switched(device, bundles, configured, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    write_wheel(few, "numpy", "99.0", {})
    with pytest.raises(DeployError, match=r"the packages cannot be installed: .*No matching distribution") as refused:
        device.push(bundles[0], configured(), wheelhouse=few)
    assert "\n" not in str(refused.value)
    assert device.current is None
    assert not any((venv / "bin").exists() and not (venv / "complete").exists() for venv in device.root.glob("venvs/*"))

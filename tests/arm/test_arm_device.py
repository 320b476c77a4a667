"""On an emulated aarch64 machine: the wheel installs, a bundle gives the same results, the agent survives kill -9."""

import json
import random
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.agent import AgentConfig
from edgeexit.agent.policy.check import Recipient
from edgeexit.agent.policy.slot import SlotPolicies
from edgeexit.agent.policy.store import PolicyStore
from edgeexit.bundle import Bundle
from edgeexit.key_set import TrustedKeys
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner
from edgeexit.signing import load_private_key, load_public_key
from edgeexit.wire import Audit, Report, State
from tests.agent.fleet import Fleet, wait_for
from tests.arm.machine import SLOW_S, Machine, Running
from tests.broker import RealBroker

pytestmark = pytest.mark.arm

_AARCH64 = 183
_WORK = "/home/edge/by-hand"
_ROUNDS = 4


@pytest.fixture(scope="module")
def python(machine: Machine, wheelhouse: Path) -> str:
    """The Python of an environment on the device in which pip has installed the built wheel and its dependencies."""
    wheels = machine.put_folder(f"{_WORK}/wheelhouse", wheelhouse)
    (pip,) = (f"/{found.relative_to(machine.root)}" for found in machine.root.glob("usr/share/python-wheels/pip-*.whl"))
    machine.run("/usr/bin/python3", "-m", "venv", "--without-pip", f"{_WORK}/venv")
    installed = f"{_WORK}/venv/bin/python"
    machine.run(
        "env", f"PYTHONPATH={pip}",  # Debian's pip; copying it into the environment takes half a minute
        installed, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", wheels,
        "edgeexit[onnxruntime,endpoint]",
    )  # fmt: skip
    return installed


@pytest.fixture(scope="module")
def bundle_path(machine: Machine, bundle: Bundle) -> str:
    """The bundle's folder on the device."""
    return machine.put_folder(f"{_WORK}/bundle", bundle.path)


@pytest.fixture(scope="module")
def samples_path(machine: Machine, samples: Path) -> str:
    return machine.put(f"{_WORK}/samples.npz", samples.read_bytes())


def test_the_wheel_gives_the_same_results_on_the_device(
    machine: Machine, python: str, bundle_path: str, samples_path: str, bundle: Bundle, images: np.ndarray
) -> None:
    probe = machine.put(f"{_WORK}/probe.py", (Path(__file__).parent / "probe.py").read_bytes())
    found = json.loads(machine.run(python, probe, bundle_path, samples_path))
    assert found["machine"] == "aarch64"
    assert found["edgeexit"].startswith(found["python"])
    assert found["heavy"] == []
    (native,) = machine.host_path(f"{_WORK}/venv").rglob("onnxruntime_pybind11_state*.so")
    assert struct.unpack("<H", native.read_bytes()[18:20]) == (_AARCH64,)

    golden, proof = bundle.golden(), bundle.manifest.proof
    for name in bundle.manifest.exits:
        np.testing.assert_allclose(
            found["golden"][name], golden.exits[name], atol=proof.absolute_tolerance, rtol=proof.relative_tolerance
        )
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.8,) * 2)
    with Runner(bundle) as runner:
        local = runner.infer({"image": images}, policy=policy)
    assert found["exits"] == local.exits.tolist()
    assert found["predictions"] == local.predictions.tolist()
    assert found["one_by_one"] == [
        [int(prediction), int(exit_)] for prediction, exit_ in zip(local.predictions[:8], local.exits[:8], strict=True)
    ]
    assert set(found["exits"]) == {0, 1, 2}


class DeviceAgent:
    """The agent on the device; a test may start it several times."""

    def __init__(self, machine: Machine, command: list[str], log: Path) -> None:
        self._machine = machine
        self._command = command
        self._log = log

    @contextmanager
    def running(self) -> Iterator[Running]:
        with (
            self._log.open("wb") as log,
            self._machine.running(*self._command, log=log) as agent,
        ):
            self._agent = agent
            yield agent

    @property
    def log(self) -> str:
        """The log since the last start."""
        return self._log.read_text()

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until `condition` returns a true value and return it; fail if the agent ends."""

        def checked_condition() -> Any:
            assert not self._agent.has_ended, f"the agent ended while waiting for {what}:\n{self.log}"
            return condition()

        return wait_for(checked_condition, what, timeout_s=SLOW_S)


@pytest.fixture(scope="module")
def config(machine: Machine, broker: RealBroker, public_key: Path) -> AgentConfig:
    """The configuration of a device that reports every 0.5 s and resends only after a restart."""
    machine.put(f"{_WORK}/calibrator.pub", public_key.read_bytes())
    file = machine.put(
        f"{_WORK}/agent.toml",
        'fleet = "plant"\ndevice = "arm-1"\ntrusted_keys = ["calibrator.pub"]\naudit_fraction = 0.2\n'
        f'report_interval_s = 0.5\nresend_s = 3600\npolicy_trial_s = 0\n[broker]\nurl = "{broker.url}"\n',
    )
    return AgentConfig.load(machine.host_path(file))


@pytest.fixture(scope="module")
def fleet(broker: RealBroker, bundle: Bundle, public_key: Path) -> Iterator[Fleet]:
    cloud = Fleet(broker.url, bundle, load_private_key(public_key.with_suffix(".pem")))
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture(scope="module")
def device(
    machine: Machine,
    python: str,
    bundle_path: str,
    samples_path: str,
    config: AgentConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> DeviceAgent:
    agent = [str(Path(python).parent / "edgeexit"), "agent", bundle_path, "--config", f"{_WORK}/agent.toml"]
    command = [*agent, "--stream", samples_path, "--rate", "20"]
    return DeviceAgent(machine, command, tmp_path_factory.mktemp("agent") / "log")


def state(fleet: Fleet, config: AgentConfig, **expected: Any) -> State | None:
    """Return the newest state message if its fields are as expected."""
    newest = fleet.state(config)
    return newest if newest and all(getattr(newest, name) == value for name, value in expected.items()) else None


def sent_audits(fleet: Fleet, config: AgentConfig, start: str) -> set[int]:
    return {audit.sequence for audit in fleet.messages(config, Audit) if audit.start == start}


def sent_reports(fleet: Fleet, config: AgentConfig, start: str) -> dict[int, int]:
    """Return revision -> sequence number of the newest report of a start; it replaces earlier reports."""
    first = (report for report in fleet.messages(config, Report) if report.start == start)
    return {report.revision: report.sequence for report in sorted(first, key=lambda report: report.sequence)}


def test_the_policy_and_all_unacknowledged_messages_survive_kill_9(
    device: DeviceAgent, fleet: Fleet, config: AgentConfig
) -> None:
    with device.running():
        first = device.wait_for(lambda: state(fleet, config, online=True, revision=0), "the first state").start
        fleet.send_policy(config, fleet.document(1, threshold=0.8))
        device.wait_for(lambda: state(fleet, config, online=True, revision=1), "the new policy to be active")
        report = device.wait_for(
            lambda: next((r for r in fleet.messages(config, Report) if r.revision == 1 and r.exits[0].exited), None),
            "a report of early exits under the policy",
        )
        assert report.failed == 0
        device.wait_for(lambda: fleet.messages(config, Audit), "an audit")
    wait_for(lambda: state(fleet, config, online=False, start=first), "the last will", timeout_s=SLOW_S)
    audits, reports = sent_audits(fleet, config, first), sent_reports(fleet, config, first)

    fleet.received.clear()
    with device.running() as agent:
        second = device.wait_for(lambda: state(fleet, config, online=True, revision=1), "the same policy").start
        assert second != first
        assert f"started ({second}): revision 1 (confidence)" in device.log
        device.wait_for(lambda: audits <= sent_audits(fleet, config, first), "the unacknowledged audits")
        device.wait_for(lambda: reports.keys() <= sent_reports(fleet, config, first).keys(), "the reports")
        again = sent_reports(fleet, config, first)
        assert all(again[revision] >= newest for revision, newest in reports.items())
        assert agent.stop() == 0
    assert "Traceback" not in device.log
    wait_for(lambda: state(fleet, config, online=False, start=second), "the offline state")


def test_an_agent_killed_while_a_policy_arrives_starts_with_the_old_or_the_new_one(
    device: DeviceAgent, fleet: Fleet, config: AgentConfig, bundle: Bundle, public_key: Path
) -> None:
    delays = random.Random(5)  # noqa: S311 - a fixed seed gives the same delays in every run
    recipient = Recipient(fleet="plant", device="arm-1", cohort="default", bundle=bundle.digest, exits=3, classes=6)
    store = PolicyStore(config.state_dir, recipient)
    keys = TrustedKeys.configured("plant", trusted=[load_public_key(public_key)])
    old, took_s = None, None
    for new in range(10, 11 + _ROUNDS):
        with device.running():
            device.wait_for(lambda: "connected to the broker" in device.log, "the connection to the broker")
            if old is not None:
                started_with = int(re.search(r"started \(\w+\): revision (\d+) \(confidence\)", device.log).group(1))
                assert started_with in {old, new - 1}
                assert "not used" not in device.log
                assert not list(config.state_dir.glob(".policy*")), "a temporary file of an interrupted write is left"
                device.wait_for(partial(state, fleet, config, online=True, revision=new - 1), "the retained policy")
            started = time.monotonic()
            fleet.send_policy(config, fleet.document(new, threshold=0.8))
            if took_s is None:
                device.wait_for(partial(state, fleet, config, online=True, revision=new), "the first policy")
                took_s = time.monotonic() - started
            else:
                time.sleep(delays.uniform(0, took_s))
        old = new - 1
        stored = SlotPolicies("cohort", store, recipient, keys).accepted
        assert stored.revision in {old, new}
        assert stored.document is not None

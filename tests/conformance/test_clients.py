"""Our agent, and a client made of mosquitto_pub and mosquitto_sub, pass the conformance test."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker import Mosquitto, RealBroker

ROOT = Path(__file__).parent.parent.parent
CONFORMANCE = ROOT / "scripts" / "conformance"
AGENT = f"{sys.executable} {Path(__file__).parent / 'agent_client.py'}"
BASH = f"bash {Path(__file__).parent / 'mosquitto_client.sh'}"
GROUPS = ("link", "delivery", "downlink", "policy", "rejection")
FAST = ("--report-interval", "0.6", "--resend", "0.2")
TOOLS = ("mosquitto_sub", "mosquitto_pub", "openssl", "jq", "basenc")
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"


def start(group, url, client, *options):
    """Start the checks of a group in a process of their own, with a client of their own in a fleet of its own."""
    command = [sys.executable, CONFORMANCE, "--broker", url, "--client", client, "--only", group, "--fleet", group]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": PATH}
    return subprocess.Popen(
        [*command, *options, "--json"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def results(process):
    """Return check -> (result, reason) when the process has ended."""
    output, errors = process.communicate(timeout=240)
    assert output, errors.decode()
    found = {check["check"]: (check["result"], check["reason"]) for check in json.loads(output)["checks"]}
    failed = {name: reason for name, (result, reason) in found.items() if result == "fail"}
    assert failed == {}, errors.decode()
    assert process.returncode == 0
    return found


def run(broker, folder, clients, *options):
    """Run the checks of several groups at the same time, because they mostly wait; return check -> (result, reason).

    `clients` is group -> command of the client.
    """
    broker.start()
    processes = []
    try:
        for group, client in clients.items():
            (folder / group).mkdir()
            processes.append(start(group, broker.url, client.replace("FOLDER", str(folder / group)), *options))
        return {name: result for process in processes for name, result in results(process).items()}
    finally:
        for process in processes:
            process.terminate()
        broker.stop()


def test_our_agent_passes_all_checks(tmp_path):
    clients = dict.fromkeys((*GROUPS, "keys"), f"{AGENT} FOLDER")
    found = run(RealBroker(tmp_path), tmp_path, clients, *FAST)
    assert len(found) > 25
    assert {name for name, (result, _) in found.items() if result == "skipped"} <= {"mqtt-3.1.1"}


def test_our_agent_passes_the_checks_of_the_connection_at_mosquitto_and_falls_back_to_mqtt_3_1_1(tmp_path):
    found = run(Mosquitto(tmp_path / "broker"), tmp_path, {"link": f"{AGENT} FOLDER"}, *FAST)
    assert found["mqtt-3.1.1"] == ("pass", "it fell back to 3.1.1")


@pytest.mark.skipif(any(shutil.which(tool, path=PATH) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}")
def test_a_client_of_mosquitto_pub_and_mosquitto_sub_passes_all_core_checks_with_mqtt_5_and_3_1_1(tmp_path):
    versions = dict(zip(GROUPS, ("311", "5", "5", "311", "5"), strict=True))
    clients = {group: f"{BASH} FOLDER {version}" for group, version in versions.items()}
    found = run(
        Mosquitto(tmp_path / "broker"), tmp_path, clients, "--core", "--report-interval", "1.5", "--resend", "0.5"
    )
    assert {result for result, _ in found.values()} == {"pass"}


def test_a_client_that_does_not_connect_is_named_and_not_waited_for(tmp_path):
    broker = RealBroker(tmp_path)
    broker.start()
    try:
        process = start("link", broker.url, "true")
        assert process.communicate(timeout=60)[1].decode().splitlines()[-1] == "the client ended with exit code 0"
        assert process.returncode == 1
    finally:
        broker.stop()

"""The commands about one device: a signed command for its present start, approval, revocation, resolved clones."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from datetime import datetime, timezone

import msgspec
import pytest
from edgeexit_calibration import open_database
from edgeexit_calibration.ingest.uplink import Uplink
from typer.testing import CliRunner

from edgeexit.cli.calibrator import calibrator_app
from edgeexit.errors import EdgeExitError
from edgeexit.signing import PrivateKey, generate_key, key_id, load_private_key, public_key_text, verify
from edgeexit.wire import COMMAND_TYPE, Command, decode, down_topic, up_topic
from tests.calibration.scenario import DEVICE, FLEET, START, Client, audits_of, state_of, store_uplinks, until

DIGEST = "d" * 64
NAME = "/".join(DEVICE)


def invoke(*arguments):
    """Run a command in this process; raise its error as the entry point of the CLI receives it."""
    return CliRunner().invoke(calibrator_app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def operator(tmp_path):
    generate_key(tmp_path / "operator.key")
    return tmp_path / "operator.key"


def command_of(url, operator, *, action="report", device=DEVICE.device):
    where = ("--fleet", FLEET, "--shard", DEVICE.shard, "--device", device, "--broker", url, "--key", operator)
    return ("command", action, *where)


@pytest.mark.parametrize("action", ["report", "profile"])
def test_a_command_is_signed_for_the_present_start_of_its_device(broker, operator, action):
    device = Client(broker, down_topic(DEVICE, "command"))
    device.publish(up_topic(DEVICE, "state"), state_of(DIGEST), retain=True)
    assert action in invoke(*command_of(broker.url, operator, action=action)).output
    until(lambda: device.messages)
    [message] = device.messages
    public = load_private_key(operator).public_key()
    command = decode(verify(message.payload, payload_type=COMMAND_TYPE, keys=[public]), Command)
    assert (command.action, command.fleet, command.device, command.start) == (action, FLEET, DEVICE.device, START)
    assert (message.topic, message.qos, message.retain) == (down_topic(DEVICE, "command"), 1, False)
    assert 50 <= message.properties.MessageExpiryInterval <= 60
    invoke(*command_of(broker.url, operator, action=action))
    until(lambda: len(device.messages) == 2)
    again = decode(verify(device.messages[1].payload, payload_type=COMMAND_TYPE, keys=[public]), Command)
    assert again.id != command.id
    device.close()


def test_a_command_to_an_offline_or_unknown_device_is_an_error(broker, operator):
    device = Client(broker, down_topic(DEVICE, "command"))
    device.publish(up_topic(DEVICE, "state"), state_of(DIGEST, online=False), retain=True)
    with pytest.raises(EdgeExitError, match=f"device '{NAME}' is offline; no command was sent"):
        invoke(*command_of(broker.url, operator))
    with pytest.raises(EdgeExitError, match=r"device 'shop/s0/camera-9' is unknown: .*up/state.*ACL"):
        invoke(*command_of(broker.url, operator, device="camera-9"))
    assert device.messages == []
    device.close()


@pytest.mark.timing
def test_a_command_without_a_broker_is_a_one_line_error(broker, operator):
    broker.stop()
    started = time.monotonic()
    command = [sys.executable, "-m", "edgeexit", "calibrator", *map(str, command_of(broker.url, operator))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert time.monotonic() - started < 12
    [line] = ended.stderr.splitlines()
    assert broker.url in line
    assert "refused" in line


def database_with(tmp_path, *uplinks):
    path = tmp_path / "calibrator.sqlite"
    store = open_database(str(path))
    with store.writing() as session:
        store_uplinks(
            session, [Uplink(DEVICE, message, key) for message, key in uplinks], now=datetime.now(timezone.utc)
        )
    store.close()
    return path


def device_of(path):
    [line] = invoke("devices", "--database", path, "--json").output.splitlines()
    return json.loads(line)


def attention_of(path):
    """Return what needs attention, apart from that no calibrator runs in these tests."""
    found = json.loads(invoke("status", "--database", path, "--json").output)["attention"]
    return [item["kind"] for item in found if item["kind"] != "no calibrator"]


def test_a_changed_key_is_shown_with_the_command_that_approves_it(tmp_path, bundle):
    keys = [PrivateKey.generate().public_key() for _ in range(2)]
    first, second = (public_key_text(key) for key in keys)
    audits = audits_of(bundle, 3, size=1)
    path = database_with(tmp_path, (audits[0], first), (audits[1], second), (audits[2], second))
    shown = invoke("status", "--database", path).output
    approval = f"edgeexit calibrator approve {NAME} --key {key_id(keys[1])}"
    assert approval in shown
    assert "a clone, a wiped device or a forger" in shown
    with pytest.raises(EdgeExitError, match=f"name the right key, e.g. --key {key_id(keys[1])}"):
        invoke("approve", DEVICE.device, "--database", path)
    assert key_id(keys[1]) in invoke(*approval.split()[2:], "--database", path).output
    device = device_of(path)
    assert (device["key"], device["offered_key"]) == (key_id(keys[1]), None)
    assert attention_of(path) == []
    log = json.loads(invoke("history", "--database", path, "--json").output)["device_events"]
    assert [event["kind"] for event in log] == ["key pinned", "key changed", "approved"]
    assert log[-1]["actor"] not in {"", "calibrator"}


def test_a_revoked_device_is_shown_until_it_is_approved_again(tmp_path, bundle):
    key = public_key_text(PrivateKey.generate().public_key())
    path = database_with(tmp_path, (audits_of(bundle, 1)[0], key))
    invoke("revoke-device", f"s0/{DEVICE.device}", "--database", path)
    assert "revoked" in invoke("devices", "--database", path).output
    assert device_of(path)["revoked_at"] is not None
    invoke("approve", NAME, "--database", path)
    assert device_of(path)["revoked_at"] is None


def test_a_clone_is_shown_until_it_is_resolved(tmp_path):
    one = [state_of(DIGEST, start="a" * 16, uptime_s=uptime_s) for uptime_s in (10.0, 20.0)]
    other = state_of(DIGEST, start="b" * 16, uptime_s=1.0)
    path = database_with(tmp_path, *((message, None) for message in (one[0], other, one[1])))
    shown = invoke("status", "--database", path).output
    assert f"{NAME}: two agents run under this name (starts {'b' * 16} and {'a' * 16};" in shown
    invoke("clear-clone", DEVICE.device, "--database", path)
    assert attention_of(path) == []
    with pytest.raises(EdgeExitError, match="no second agent"):
        invoke("clear-clone", DEVICE.device, "--database", path)


def test_an_unknown_or_ambiguous_device_is_an_error(tmp_path):
    path = database_with(tmp_path, (state_of(DIGEST), None))
    store = open_database(str(path))
    with store.writing() as session:
        elsewhere = Uplink(DEVICE._replace(shard="s1"), state_of(DIGEST))
        store_uplinks(session, [elsewhere], now=datetime.now(timezone.utc))
    store.close()
    for name in ("camera-9", "shop/s9/camera-1", "a/shop/s0/camera-1", "", "/"):
        with pytest.raises(EdgeExitError, match="is unknown"):
            invoke("revoke-device", name, "--database", path)
    with pytest.raises(EdgeExitError, match="write one of: shop/s0/camera-1, shop/s1/camera-1"):
        invoke("revoke-device", "camera-1", "--database", path)
    with pytest.raises(EdgeExitError, match="has not shown a key yet"):
        invoke("approve", "s1/camera-1", "--database", path)


def test_what_is_wrong_with_a_device_comes_first_the_most_urgent_first(tmp_path):
    state = state_of(DIGEST, problems=("outbox is in memory: the disk is full",), unconfirmed=True)
    path = database_with(tmp_path, (msgspec.structs.replace(state, cohort="c"), None))
    shown = invoke("status", "--database", path).output
    order = ("Needs attention", "unconfirmed", "the disk is full", "1 device, 1 online", "Cohorts")
    places = [shown.index(text) for text in order]
    assert places == sorted(places)
    assert attention_of(path) == ["unconfirmed", "problem"]


@pytest.mark.parametrize("command", ["status", "devices"])
def test_a_terminal_of_80_columns_is_enough(tmp_path, bundle, command):
    path = database_with(
        tmp_path, (state_of(bundle.digest, unconfirmed=True), None), (audits_of(bundle, 9)[0], "A" * 43 + "=")
    )
    ours, theirs = pty.openpty()
    process = [sys.executable, "-m", "edgeexit", "calibrator", command, "--database", str(path)]
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    subprocess.run(process, stdout=theirs, stderr=theirs, env=environment, timeout=30, check=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # raised at the end of the output
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
    table = [line for line in lines if not line.startswith("next:")]
    assert max(map(len, table)) <= 80
    if command == "devices":
        assert any(line.split()[1:5:2] == [NAME, "yes"] for line in table)  # the name is on one line

"""A device that answers nonsense, without end or not at all: one clear line, and nothing that controls the terminal."""

import dataclasses
import json
import os
import sys
import unicodedata

import pytest

from edgeexit.console import print_json
from edgeexit.deploy import device_status, lock, remote_process
from edgeexit.deploy.copying import copy_files
from edgeexit.deploy.device import Device, run_shell
from edgeexit.deploy.facts import parse_facts
from edgeexit.deploy.lock import DeploymentLock
from edgeexit.deploy.payload import text_file
from edgeexit.deploy.remote.documents import StatusArguments
from edgeexit.deploy.ssh import Connection
from edgeexit.deploy.steps import FINISH, INVENTORY, RESULT_PREFIX, STATUS
from edgeexit.errors import DeployError, EdgeExitError

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\r\nnext: rm -rf ~\x7f\u2028"
"""Sets the title, clears the screen, changes the colour with a C1 character, reverses text, and starts a new line."""


def is_harmless(text):
    return all(unicodedata.category(character) not in {"Cc", "Cf", "Zl", "Zp"} for character in text)


@pytest.fixture
def scripted(device):
    """Return a device whose Python is a shell script."""
    connections = []

    def make(script):
        program = device.sshd.programs / "scripted"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        connection = Connection(device.sshd.address())
        connections.append(connection)
        return Device(connection, python=str(program), root=str(device.root), retry_delays_s=())

    yield make
    for connection in connections:
        connection.__exit__(None, None, None)


def answer(message):
    """Return a script that reads the program and sends a reply."""
    line = (RESULT_PREFIX + message).decode("latin-1")
    return f"cat >/dev/null\ncat <<'END'\n{line}\nEND"


def call(device, step=STATUS):
    with pytest.raises(DeployError) as raised:
        device.call_once(step, StatusArguments(log_lines=1))
    assert is_harmless(str(raised.value))
    assert len(str(raised.value)) < 10_000
    return str(raised.value)


def test_output_without_end_is_cut_off(scripted):
    assert "sent more than 4 MiB of output" in call(scripted("exec yes"))


def test_messages_without_end_are_cut_off(scripted):
    assert "sent more than 1 MiB of messages" in call(scripted("exec yes >&2"))


def test_a_step_that_never_ends_is_ended(scripted):
    hasty = dataclasses.replace(STATUS, timeout_s=0.5)
    assert "did not finish a command within 0.5 s" in call(scripted("cat >/dev/null; exec sleep 60"), hasty)


def test_a_lock_that_is_never_answered_is_given_up(scripted, monkeypatch):
    monkeypatch.setattr(lock, "LOCK", dataclasses.replace(lock.LOCK, timeout_s=0.5))
    device = scripted("while echo noise; do sleep 0.1; done")
    with pytest.raises(DeployError, match=r"within 0\.5 s"):
        DeploymentLock(device._connection, python=device._python, root=device.root)


def test_a_device_that_reads_nothing_is_given_up(scripted, monkeypatch):
    monkeypatch.setattr(remote_process, "_STALL_S", 0.5)
    device = scripted("exec sleep 60")
    with pytest.raises(DeployError, match=r"has read nothing for 0\.5 s"):
        device.call_once(STATUS, StatusArguments(log_lines=1), lambda: [bytes(1 << 20)] * 32)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"error": 5}',
        b'{"error": null}',
        b'{"reply": {"id": 1}}',
        b'{"reply": {"id": null}}',
        b'{"reply": ["id"]}',
        b'{"reply": {"id": NaN}}',
        b'{"reply": {"id": "\xff"}}',
        b'{"reply": ' + b"[" * 200_000,
        b'{"reply": {"id": ' + b"9" * 10_000 + b"}}",
    ],
    ids=lambda message: ascii(message[:24]),
)
def test_a_reply_that_is_nonsense_is_one_error(message):
    with pytest.raises(DeployError, match="the reply of the step 'finish' on the device is not valid") as raised:
        FINISH.decode_reply(RESULT_PREFIX + message)
    assert is_harmless(str(raised.value))


def test_unknown_fields_of_a_reply_are_dropped():
    assert FINISH.decode_reply(RESULT_PREFIX + b'{"reply": {"id": "1", "more": 2}, "other": 3}') == {"id": "1"}


def test_an_error_a_log_and_an_exit_status_contain_no_control_characters(scripted):
    assert "owned" in call(scripted(answer(json.dumps({"error": EVIL}).encode())))
    reply = {"current": None, "releases": [], "pid": 5, "health_error": EVIL, "log": [EVIL, "x" * 1_000_000]}
    status = scripted(answer(json.dumps({"reply": reply}).encode())).call_once(STATUS, StatusArguments(log_lines=2))
    assert all(is_harmless(text) for text in (status["health_error"], *status["log"]))
    assert len(status["log"][1]) == 4096
    raw = "".join(f"\\{byte:03o}" for byte in EVIL.encode())
    assert "rm -rf" in call(scripted(f"printf '{raw}' >&2; exit 3"))
    assert "owned" in call(scripted(f"cat >/dev/null; printf '{raw}'"))


@pytest.mark.parametrize(
    "changed",
    [
        {"offset": -1}, {"offset": 10**6}, {"state": "in_release"}, {"release": "0001-a", "state": "missing"}, None,
    ],
)  # fmt: skip
def test_an_impossible_state_of_a_file_is_an_error(scripted, changed):
    file = text_file("bundle/x", "content")
    state = {"state": "missing", "release": None, "offset": 0, **(changed or {})}
    files = {} if changed is None else {"incoming/0/bundle/x": state}
    reply = {"current": None, "current_healthy": False, "environments": [], "files": files, "spaces": {}}
    with pytest.raises(DeployError, match="impossible state of 'incoming/0/bundle/x'"):
        copy_files(scripted(answer(json.dumps({"reply": reply}).encode())), [file], "0")
    assert INVENTORY.decode_reply(RESULT_PREFIX + json.dumps({"reply": reply}).encode())


@pytest.mark.parametrize(
    "line",
    [
        "uid=-1", "uid=" + "9" * 5000, "time=nan", "time=1e99", "cuda=\x1b[2J", "folder=relative",
        "python=3", "python=x|y|z|w", "python=3.11|64|venv|relative", "python=99999999999999999999.1|64|venv|/p",
    ],
    ids=lambda line: ascii(line[:20]),
)  # fmt: skip
def test_impossible_facts_are_one_error(line):
    usual = "machine=x\nuser=u\nuid=1\nfolder=/f\ntime=1\ncuda=\npython=3.11|64|venv|/p\n"
    assert parse_facts(usual)
    with pytest.raises(DeployError, match="did not report all facts") as raised:
        parse_facts(f"{usual}{line}\n")
    assert "\n" not in str(raised.value)


def test_facts_with_escape_sequences_or_without_end_are_harmless(device):
    raw = "".join(f"\\{byte:03o}" for byte in EVIL.encode())
    fakes = {"uname": f"printf '{raw}'", "python3.13": "exec yes"}
    try:
        with Connection(device.sshd.address()) as connection:
            for name, script in fakes.items():
                (device.sshd.programs / name).write_text(f"#!/bin/sh\n{script}\n")
                (device.sshd.programs / name).chmod(0o755)
                if name == "uname":
                    text = run_shell(connection, "facts.sh", str(device.root), "")
                    assert "owned" in text
                    assert all(is_harmless(line) for line in text.split("\n"))
            with pytest.raises(DeployError, match="sent more than 4 MiB of output"):
                run_shell(connection, "facts.sh", str(device.root), "")
    finally:
        for name in fakes:
            (device.sshd.programs / name).unlink(missing_ok=True)


def test_a_status_with_escape_sequences_is_printed_without_them(device, capfd):
    reply = {"current": None, "releases": [], "pid": None, "health_error": EVIL, "log": [EVIL]}
    python = device.sshd.programs / f"python3.{sys.version_info[1]}"
    target = python.readlink()
    python.unlink()
    script = answer(json.dumps({"reply": reply}).encode())
    python.write_text(f'#!/bin/sh\n[ "$1" = - ] && echo "python=3.11|64|venv|{python}" && exit\n{script}\n')
    python.chmod(0o755)
    try:
        print_json(device_status(device.sshd.address(), folder=str(device.root)))
    finally:
        python.unlink()
        python.symlink_to(target)
    printed = capfd.readouterr().out
    assert "owned" in printed
    assert all(is_harmless(line) for line in printed.splitlines())
    print_json({"text": EVIL})
    printed = capfd.readouterr().out
    assert json.loads(printed) == {"text": EVIL}
    assert all(is_harmless(line) for line in printed.split("\n"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("planted", ["", "releases", "releases/0009-x", "state", "current"])
def test_a_folder_or_link_that_another_user_planted_on_the_device_is_refused(device, planted):
    victim = device.root.parent / "victim"
    victim.mkdir(exist_ok=True)
    root = device.root.parent / f"planted-{planted.replace('/', '-')}"
    path = root / planted if planted else root
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim)
    os.chown(path, 12345, 12345, follow_symlinks=False)
    with Connection(device.sshd.address()) as connection:
        remote = Device(connection, python=sys.executable, root=str(root), retry_delays_s=())
        with pytest.raises(EdgeExitError, match=r"belongs to another user \(uid 12345\)"):
            DeploymentLock(connection, python=sys.executable, root=str(root))
        with pytest.raises(DeployError, match=r"belongs to another user \(uid 12345\)"):
            remote.call(STATUS, StatusArguments(log_lines=0))
    assert list(victim.iterdir()) == []

"""The command line: register, run in a process of its own that may be killed, status, history."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import datetime, timezone

import msgspec
import pytest
from edgeexit_calibration import CohortAddress, disagreement, exit_mix, open_database
from edgeexit_calibration.cohorts import add_event
from edgeexit_calibration.ingest import Uplink, store
from edgeexit_calibration.tables import Audit
from sqlalchemy import select
from typer.testing import CliRunner

from edgeexit.bundle import Bundle
from edgeexit.cli.calibrator import calibrator_app
from edgeexit.errors import EdgeExitError
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.ztw import Ztw
from edgeexit.signing import generate_key
from edgeexit.wire import Ack, Command, Rejection, decode, down_topic, policy_topic, up_topic
from tests.bundles import make_bundle
from tests.calibration.scenario import (
    COHORT,
    DEVICE,
    FLEET,
    RISK,
    Client,
    RefusingBroker,
    audits_of,
    fitted_bundle,
    report_of,
    state_of,
    until,
)


def invoke(*arguments):
    """Run a command in this process; an error is raised as the CLI's entry point would get it."""
    return CliRunner().invoke(calibrator_app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def setting(tmp_path, broker, bundle):
    """A registered cohort, a key and a broker; returns the arguments of `run`."""
    database = tmp_path / "calibrator.sqlite"
    generate_key(tmp_path / "calibrator.key")
    result = invoke(
        "register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--max-risk", RISK, "--database", database
    )
    assert result.exit_code == 0
    assert "new revision 1" in result.output
    return database, [
        *("run", "--database", database, "--broker", broker.url, "--fleet", FLEET),
        *("--key", tmp_path / "calibrator.key", "--check-interval", "0.2"),
    ]


class Process:
    """`edgeexit calibrator ...` as a process."""

    def __init__(self, arguments, log):
        self.log = log
        code = "from edgeexit.cli.calibrator import calibrator_app; calibrator_app()"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, arguments)], stdout=output, stderr=output
            )

    def end(self, number):
        os.kill(self._process.pid, number)
        return self._process.wait(10)


def test_killed_at_any_moment_it_loses_nothing_that_it_acknowledged(setting, broker, bundle, tmp_path):
    database, run = setting
    device = Client(broker, down_topic(DEVICE, "ack"), policy_topic(FLEET, bundle.digest, COHORT))
    cohort = CohortAddress(FLEET, bundle.digest, COHORT)
    audits = audits_of(bundle, 600, size=3)
    waiting = {audit.sequence: audit for audit in audits}
    dice = random.Random(4)  # noqa: S311 - moments to kill at
    process = Process(run, tmp_path / "log")
    until(lambda: device.of(policy_topic(*cohort)))
    for kill_after in (dice.randint(1, 60), dice.randint(61, 150)):
        for sent, audit in enumerate(list(waiting.values())):
            device.publish(up_topic(DEVICE, "audit"), audit)
            if sent == kill_after:
                break
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        acknowledged = {n for payload in device.of(down_topic(DEVICE, "ack")) for n in decode(payload, Ack).sequences}
        assert acknowledged <= stored_sequences(database)
        waiting = {sequence: audit for sequence, audit in waiting.items() if sequence not in acknowledged}
        process = Process(run, tmp_path / "log")
    for audit in waiting.values():
        device.publish(up_topic(DEVICE, "audit"), audit)
    opened = open_database(str(database), create=False)
    until(lambda: disagreement(opened, cohort).samples == 600)
    opened.close()
    device.publish(up_topic(DEVICE, "state"), state_of(bundle.digest))
    device.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=9))
    until(lambda: exit_mix_of(database, cohort) == (5, 3, 2))
    assert process.end(signal.SIGTERM) == 0
    device.close()

    status = json.loads(invoke("status", "--database", database, "--json").output)
    [cohort_row] = status["cohorts"]
    assert cohort_row["disagreement"]["samples"] == 600
    assert cohort_row["exit_mix"]["counts"] == [5, 3, 2]
    assert cohort_row["cohort"]["devices"] == cohort_row["cohort"]["up_to_date"] == 1
    assert [row["device"] for row in status["devices"]] == ["camera-1"]
    shown = invoke("status", "--database", database).output
    assert "watched" in shown
    assert "90.0 %" in shown  # the goal


def stored_sequences(database):
    opened = open_database(str(database), create=False)
    with opened.reading() as session:
        sequences = set(session.scalars(select(Audit.sequence)))
    opened.close()
    return sequences


def exit_mix_of(database, cohort):
    opened = open_database(str(database), create=False)
    counts = exit_mix(opened, cohort, revision=1).counts
    opened.close()
    return counts


def test_ctrl_c_without_a_broker_ends_cleanly_and_says_what_is_not_reachable(setting, broker, tmp_path):
    _, run = setting
    broker.stop()
    process = Process(run, tmp_path / "log")
    until(lambda: b"not reachable" in process.log.read_bytes())
    time.sleep(1.5)
    assert process.end(signal.SIGINT) == 0
    log = process.log.read_text()
    assert log.count("not reachable") == 1
    assert "Traceback" not in log


def test_sigterm_while_the_database_is_locked_does_not_wait_long(setting, broker, bundle, tmp_path):
    database, run = setting
    process = Process(run, tmp_path / "log")
    device = Client(broker, down_topic(DEVICE, "ack"), policy_topic(FLEET, bundle.digest, COHORT))
    until(lambda: device.of(policy_topic(FLEET, bundle.digest, COHORT)))
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN IMMEDIATE")
        device.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=1))
        until(lambda: b"nothing is acknowledged" in process.log.read_bytes())
        other.rollback()
        until(lambda: device.of(down_topic(DEVICE, "ack")))
        assert process.log.read_text().count("the database works again: messages are acknowledged") == 1
        other.execute("BEGIN IMMEDIATE")
        device.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=2))
        time.sleep(0.5)
        asked = time.monotonic()
        assert process.end(signal.SIGTERM) == 0
        assert time.monotonic() - asked < 5
    device.close()


@pytest.mark.parametrize("action", ["report", "profile"])
def test_a_device_is_told_what_to_do(broker, action):
    device = Client(broker, down_topic(DEVICE, "command"))
    arguments = ("--fleet", FLEET, "--shard", DEVICE.shard, "--device", DEVICE.device, "--broker", broker.url)
    assert action in invoke("command", action, *arguments).output
    until(lambda: device.messages)
    [message] = device.messages
    assert (message.topic, decode(message.payload, Command)) == (down_topic(DEVICE, "command"), Command(action=action))
    assert (message.qos, message.retain) == (1, False)
    assert 55 <= message.properties.MessageExpiryInterval <= 60
    device.close()


def test_a_command_without_a_broker_is_one_line(broker):
    broker.stop()
    arguments = ("--fleet", FLEET, "--shard", "s0", "--device", "d", "--broker", broker.url)
    asked = time.monotonic()
    command = [sys.executable, "-m", "edgeexit", "calibrator", "command", "report", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert time.monotonic() - asked < 12
    [line] = ended.stderr.splitlines()
    assert broker.url in line
    assert "refused" in line


def test_a_command_that_the_broker_refuses_is_said():
    acl = RefusingBroker()
    with pytest.raises(EdgeExitError, match=r"refuses.*d/down/command.*ACL"):
        invoke("command", "report", "--fleet", FLEET, "--shard", "s0", "--device", "d", "--broker", acl.url)
    acl.close()


def test_history_tells_revisions_with_reason_and_certificate(setting):
    database, _ = setting
    [cohort] = json.loads(invoke("history", "--database", database, "--json").output)
    [policy] = cohort["policies"]
    assert (policy["revision"], policy["reason"]) == (1, "registered")
    assert policy["certificate"]["risk"] == 0.1
    assert [event["what"] for event in cohort["events"]] == ["registered"]
    assert "registered" in invoke("history", "--database", f"sqlite:///{database}").output


def test_a_goal_tighter_than_the_certificate_is_pointed_out(tmp_path, bundle):
    result = invoke(
        "register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--max-risk", "0.01",
        "--database", tmp_path / "x.sqlite",
    )  # fmt: skip
    assert "policy is certified for 10.0 %" in " ".join(result.stderr.split())


def test_a_policy_that_audits_cannot_refit_is_pointed_out(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", exits=2, classes=4)
    policy = Ztw(temperatures=(1.0, 1.0), thresholds=(0.9,), weights=((1.0,),), biases=((0.0,) * 4,))
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
    where = ("--fleet", FLEET, "--cohort", COHORT, "--database", tmp_path / "calibrator.sqlite")
    result = invoke("register", bundle.path, *where)
    assert "policy 'ztw' reads the probabilities of all classes" in result.output
    assert "reads the probabilities" not in invoke("register", fitted_bundle(tmp_path / "other").path, *where).output


def test_what_devices_write_is_shown_as_it_is_and_does_nothing_to_the_terminal(tmp_path, bundle):
    database = tmp_path / "x.sqlite"
    invoke("register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--database", database)
    said = Rejection(reason="oops [/x] \x1b[31m", revision=9)
    state = msgspec.structs.replace(state_of(bundle.digest), policy="[/b]\x1b]0;\x07", agent="\x1b[2J", rejected=said)
    opened = open_database(str(database))
    with opened.writing() as session:
        store(session, [Uplink(DEVICE, state)], now=datetime.now(timezone.utc))
        add_event(session, 1, "noted", {"reason": said.reason}, who="[/x]\x1b", now=datetime.now(timezone.utc))
    opened.close()
    for command in ("status", "history"):
        result = invoke(command, "--database", database)
        assert "oops [/x]" in result.output
        assert "\x1b" not in result.output
        assert "\x07" not in result.output


def test_a_models_name_is_shown_as_it_is(tmp_path):
    manifest = make_bundle(tmp_path / "bundle").path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"tiny"', rb'"net [/x] \u001b[31m"'))
    bundle = Bundle.open(manifest.parent)
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.9,) * 2)
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
    arguments = ("--fleet", FLEET, "--cohort", COHORT, "--database", tmp_path / "x.sqlite")
    output = invoke("register", bundle.path, *arguments).output
    assert "registered net [/x]" in output
    assert "\x1b" not in output


def test_a_password_is_not_in_what_to_do_next(tmp_path, bundle):
    database = f"sqlite:///file:{tmp_path}/x.sqlite?uri=true&password=secret"
    result = invoke("register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--database", database)
    assert "next: edgeexit calibrator run" in result.output
    assert "x.sqlite" in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--fleet", "f", "--key", "no.key", "--database", "x.sqlite"], "edgeexit keygen"),
        (["run", "--fleet", "a/b", "--key", "KEY", "--database", "x.sqlite"], "fleet 'a/b'"),
        (["run", "--fleet", "f", "--key", "KEY", "--broker", "http://x", "--database", "x.sqlite"], "mqtt://HOST"),
        (
            ["run", "--fleet", "f", "--key", "KEY", "--broker", "mqtt://u:x@h", "--database", "x.sqlite"],
            "password_file",
        ),
        (["status", "--database", "no.sqlite"], "there is no database 'no.sqlite'"),
        (["status", "--database", "KEY.pub"], "damaged or no SQLite file"),
        (["history", "--database", "empty"], "'.*empty' is empty or no calibrator's database"),
        (["command", "report", "--fleet", "f", "--shard", "a/b", "--device", "d"], "shard 'a/b'"),
        (
            ["command", "report", "--fleet", "f", "--shard", "s", "--device", "d", "--broker", "http://x"],
            "mqtt://HOST",
        ),
        (["history", "--database", "sqlite:///no.sqlite"], "there is no database 'no.sqlite'"),
        (["register", "UNFITTED", "--fleet", "f", "--cohort", "c", "--database", "x.sqlite"], "edgeexit fit"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate_key(tmp_path / "KEY")
    (tmp_path / "empty").touch()
    make_bundle(tmp_path / "UNFITTED")
    with pytest.raises(EdgeExitError, match=says) as caught:
        invoke(*arguments)
    assert "\n" not in str(caught.value)

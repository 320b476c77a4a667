"""The command line: register, run in a process of its own that may be killed, status, history."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from edgeexit_calibration import CohortAddress, disagreement, exit_mix, open_database
from edgeexit_calibration.tables import Audit
from sqlalchemy import select
from typer.testing import CliRunner

from edgeexit.cli.calibrator import calibrator_app
from edgeexit.errors import EdgeExitError
from edgeexit.messages import Ack, decode, down_topic, policy_topic, up_topic
from edgeexit.signing import generate_key
from tests.bundles import make_bundle
from tests.calibration.scenario import COHORT, DEVICE, FLEET, RISK, Client, audits_of, report_of, state_of, until


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--fleet", "f", "--key", "no.key", "--database", "x.sqlite"], "edgeexit keygen"),
        (["run", "--fleet", "a/b", "--key", "KEY", "--database", "x.sqlite"], "fleet 'a/b'"),
        (["run", "--fleet", "f", "--key", "KEY", "--broker", "http://x", "--database", "x.sqlite"], "mqtt://HOST"),
        (["status", "--database", "no.sqlite"], "there is no database 'no.sqlite'"),
        (["history", "--database", "sqlite:///no.sqlite"], "there is no database 'no.sqlite'"),
        (["register", "UNFITTED", "--fleet", "f", "--cohort", "c", "--database", "x.sqlite"], "edgeexit fit"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate_key(tmp_path / "KEY")
    make_bundle(tmp_path / "UNFITTED")
    with pytest.raises(EdgeExitError, match=says) as caught:
        invoke(*arguments)
    assert "\n" not in str(caught.value)

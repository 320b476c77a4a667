"""The commands of `edgeexit calibrator`; `run` is tested as a process that is killed at random times."""

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
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.cohorts import add_event
from edgeexit_calibration.store.tables import AuditRow
from sqlalchemy import select
from typer.testing import CliRunner

from edgeexit.bundle import Bundle
from edgeexit.cli.calibrator import calibrator_app
from edgeexit.console import console
from edgeexit.errors import EdgeExitError
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.ztw import Ztw
from edgeexit.signing import generate_key, load_private_key
from edgeexit.wire import Ack, Rejection, decode, down_topic, policy_topic, up_topic
from tests.bundles import make_bundle
from tests.calibration.scenario import (
    COHORT,
    DEVICE,
    FLEET,
    RISK,
    Client,
    audits_of,
    fitted_bundle,
    report_of,
    state_of,
    store_uplinks,
    until,
)


def invoke(*arguments):
    """Run a command in this process; raise its error as the entry point of the CLI receives it."""
    return CliRunner().invoke(calibrator_app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def registered(tmp_path, broker, bundle):
    """Return a database with a registered cohort and the arguments of `run`."""
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
    """`edgeexit calibrator ...` as a separate process."""

    def __init__(self, arguments, log):
        self.log = log
        code = "from edgeexit.cli.calibrator import calibrator_app; calibrator_app()"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, arguments)], stdout=output, stderr=output
            )

    def stop(self, number):
        os.kill(self._process.pid, number)
        return self._process.wait(10)


def test_a_fleet_without_a_cohort_gives_a_warning(registered, tmp_path):
    _, run = registered
    process = Process(["shpo" if argument == FLEET else argument for argument in run], tmp_path / "log")
    until(lambda: b"'shpo' has no cohort" in process.log.read_bytes())
    assert process.stop(signal.SIGTERM) == 0
    assert "edgeexit calibrator register" in process.log.read_text().replace("\n", " ")


def test_a_killed_service_has_stored_every_message_that_it_acknowledged(registered, broker, bundle, tmp_path):
    database, run = registered
    device = Client(broker, down_topic(DEVICE, "ack"), policy_topic(FLEET, bundle.digest, COHORT))
    cohort = CohortAddress(FLEET, bundle.digest, COHORT)
    audits = audits_of(bundle, 600, size=3)
    waiting = {audit.sequence: audit for audit in audits}
    rng = random.Random(4)  # noqa: S311 - random times to kill the process
    process = Process(run, tmp_path / "log")
    until(lambda: device.of(policy_topic(*cohort)))
    for kill_after in (rng.randint(1, 60), rng.randint(61, 150)):
        for sent, audit in enumerate(list(waiting.values())):
            device.publish(up_topic(DEVICE, "audit"), audit)
            if sent == kill_after:
                break
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL
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
    assert process.stop(signal.SIGTERM) == 0
    device.close()

    status = json.loads(invoke("status", "--database", database, "--json").output)
    [cohort_row] = status["cohorts"]
    assert cohort_row["disagreement"]["samples"] == 600
    assert cohort_row["exit_mix"]["counts"] == [5, 3, 2]
    assert cohort_row["cohort"]["devices"] == cohort_row["cohort"]["up_to_date"] == 1
    assert [fleet["devices"] for fleet in status["fleets"]] == [1]
    shown = invoke("status", "--database", database).output
    assert "no drift" in shown
    assert "90.0 %" in shown  # the minimum agreement


def stored_sequences(database):
    opened = open_database(str(database), create=False)
    with opened.reading() as session:
        sequences = set(session.scalars(select(AuditRow.sequence)))
    opened.close()
    return sequences


def exit_mix_of(database, cohort):
    opened = open_database(str(database), create=False)
    counts = exit_mix(opened, cohort, revision=1).counts
    opened.close()
    return counts


def test_a_missing_broker_is_logged_once_and_ctrl_c_stops_the_service(registered, broker, tmp_path):
    _, run = registered
    broker.stop()
    process = Process(run, tmp_path / "log")
    until(lambda: b"cannot connect to the broker" in process.log.read_bytes())
    time.sleep(1.5)
    assert process.stop(signal.SIGINT) == 0
    log = process.log.read_text()
    assert log.count("cannot connect to the broker") == 1
    assert "Traceback" not in log


@pytest.mark.timing
def test_sigterm_stops_the_service_quickly_while_the_database_is_locked(registered, broker, bundle, tmp_path):
    database, run = registered
    process = Process(run, tmp_path / "log")
    device = Client(broker, down_topic(DEVICE, "ack"), policy_topic(FLEET, bundle.digest, COHORT))
    until(lambda: device.of(policy_topic(FLEET, bundle.digest, COHORT)))
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN IMMEDIATE")
        device.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=1))
        until(lambda: b"pausing acknowledgements" in process.log.read_bytes())
        other.rollback()
        until(lambda: device.of(down_topic(DEVICE, "ack")))
        assert process.log.read_text().count("database reachable again; resuming acknowledgements") == 1
        other.execute("BEGIN IMMEDIATE")
        device.publish(up_topic(DEVICE, "report"), report_of(bundle.digest, sequence=2))
        time.sleep(0.5)
        started = time.monotonic()
        assert process.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < 5
    device.close()


def test_history_shows_revisions_with_reason_and_certificate(registered):
    database, _ = registered
    [cohort] = json.loads(invoke("history", "--database", database, "--json").output)["cohorts"]
    [policy] = cohort["policies"]
    assert (policy["revision"], policy["reason"]) == (1, "registered")
    assert policy["certificate"]["risk"] == 0.1
    assert [event["kind"] for event in cohort["events"]] == ["registered"]
    assert "registered" in invoke("history", "--database", f"sqlite:///{database}").output


def test_a_risk_below_the_certificates_is_a_warning(tmp_path, bundle):
    result = invoke(
        "register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--max-risk", "0.01",
        "--database", tmp_path / "x.sqlite",
    )  # fmt: skip
    assert "the policy of revision 1 is certified for 10.0 % only" in " ".join(result.stderr.split())


def test_a_loss_that_is_not_known_names_the_known_ones_and_leaves_no_database(tmp_path, bundle):
    database = tmp_path / "x.sqlite"
    with pytest.raises(EdgeExitError, match="--loss 'regrets' is not known; use one of disagreement, regret"):
        invoke(
            "register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--loss", "regrets", "--database", database
        )
    assert not database.exists()


def test_the_registered_loss_is_printed(tmp_path, bundle):
    where = ("--fleet", FLEET, "--cohort", COHORT, "--max-risk", "0.1", "--database", tmp_path / "x.sqlite")
    result = invoke("register", bundle.path, *where, "--loss", "regret")
    assert "maximum regret 10.0 % with probability 90 %" in " ".join(result.output.split())
    assert "warning" not in result.stderr
    again = invoke("register", bundle.path, *where)
    assert "maximum regret 10.0 %" in " ".join(again.output.split())
    shown = " ".join(invoke("status", "--database", tmp_path / "x.sqlite").output.split())
    assert "regret at most 10.0 %" in shown or "regret <= 10.0" in shown


def test_with_a_trusted_key_only_a_bundle_that_it_signed_is_registered(tmp_path):
    bundle = fitted_bundle(tmp_path / "bundle")
    public = generate_key(tmp_path / "release.key")
    where = ("--fleet", FLEET, "--cohort", COHORT, "--database", tmp_path / "calibrator.sqlite", "--trust", public)
    with pytest.raises(EdgeExitError, match=r"signature\.json is missing"):
        invoke("register", bundle.path, *where)
    bundle.sign(load_private_key(tmp_path / "release.key"))
    assert "new revision 1" in invoke("register", bundle.path, *where).output


def test_the_history_of_policies_fits_a_narrow_terminal(tmp_path, bundle, monkeypatch):
    database = tmp_path / "x.sqlite"
    invoke("register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--database", database)
    assert " thresholds " in invoke("history", "--database", database).output
    monkeypatch.setattr(console, "_width", 80)
    lines = invoke("history", "--database", database).output.splitlines()
    [row] = [line for line in lines if line.startswith("| 1 ")]
    assert len(row) <= 80
    assert "registered" in row
    assert not any(" thresholds " in line for line in lines)


@pytest.mark.parametrize(
    ("option", "named"), [("--max-risk", "--max-risk: risk"), ("--delta", "--max-risk, --delta: delta")]
)
def test_a_risk_out_of_range_names_the_option_and_leaves_no_database(tmp_path, bundle, option, named):
    database = tmp_path / "x.sqlite"
    with pytest.raises(EdgeExitError, match=f"{named} 2 must be between 0 and 1"):
        invoke("register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, option, "2", "--database", database)
    assert not database.exists()


def test_only_the_missing_certificate_of_a_policy_that_reads_all_probabilities_is_a_warning(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", exits=2, classes=4)
    policy = Ztw(temperatures=(1.0, 1.0), thresholds=(0.9,), weights=((1.0,),), biases=((0.0,) * 4,))
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
    where = ("--fleet", FLEET, "--cohort", COHORT, "--database", tmp_path / "calibrator.sqlite")
    result = invoke("register", bundle.path, *where)
    assert "the policy of revision 1 is not certified" in result.output
    assert "cannot" not in result.output


def test_markup_and_control_characters_of_devices_are_escaped(tmp_path, bundle):
    database = tmp_path / "x.sqlite"
    invoke("register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--database", database)
    rejection = Rejection(reason="oops [/x] \x1b[31m", revision=9)
    state = msgspec.structs.replace(
        state_of(bundle.digest), policy="[/b]\x1b]0;\x07", agent="\x1b[2J", rejected=rejection
    )
    opened = open_database(str(database))
    with opened.writing() as session:
        store_uplinks(session, [Uplink(DEVICE, state)], now=datetime.now(timezone.utc))
        add_event(
            session, 1, "registered", {"reason": rejection.reason}, actor="[/x]\x1b", now=datetime.now(timezone.utc)
        )
    opened.close()
    for command in ("status", "history"):
        result = invoke(command, "--database", database)
        assert "oops [/x]" in result.output, command
        assert "\x1b" not in result.output
        assert "\x07" not in result.output


def test_markup_and_control_characters_of_a_models_name_are_escaped(tmp_path):
    manifest = make_bundle(tmp_path / "bundle").path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"tiny"', rb'"net [/x] \u001b[31m"'))
    bundle = Bundle.open(manifest.parent)
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.9,) * 2)
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
    arguments = ("--fleet", FLEET, "--cohort", COHORT, "--database", tmp_path / "x.sqlite")
    output = invoke("register", bundle.path, *arguments).output
    assert "registered net [/x]" in output
    assert "\x1b" not in output


def test_the_next_step_does_not_contain_the_password(tmp_path, bundle):
    database = f"sqlite:///file:{tmp_path}/x.sqlite?uri=true&password=secret"
    result = invoke("register", bundle.path, "--fleet", FLEET, "--cohort", COHORT, "--database", database)
    assert "next: edgeexit calibrator run" in result.output
    assert "x.sqlite" in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--fleet", "f", "--key", "no.key", "--database", "x.sqlite"], "edgeexit keygen"),
        (["run", "--fleet", "a/b", "--key", "KEY", "--database", "x.sqlite"], "fleet 'a/b'"),
        (["run", "--fleet", "f", "--key", "KEY", "--broker", "http://x", "--database", "x.sqlite"], "mqtt://HOST"),
        (
            ["run", "--fleet", "f", "--key", "KEY", "--broker", "mqtt://u:x@h", "--database", "x.sqlite"],
            "--broker-password-file",
        ),
        (["status", "--database", "no.sqlite"], "database 'no.sqlite' does not exist"),
        (["status", "--database", "KEY.pub"], "damaged or not an SQLite file"),
        (["history", "--database", "empty"], "'.*empty' is empty or not a calibrator database"),
        (["command", "report", "--fleet", "f", "--shard", "a/b", "--device", "d", "--key", "KEY"], "shard 'a/b'"),
        (
            [
                "command",
                "report",
                "--fleet",
                "f",
                "--shard",
                "s",
                "--device",
                "d",
                "--key",
                "KEY",
                "--broker",
                "http://x",
            ],
            "mqtt://HOST",
        ),
        (["history", "--database", "sqlite:///no.sqlite"], "database 'no.sqlite' does not exist"),
        (["register", "UNFITTED", "--fleet", "f", "--cohort", "c", "--database", "x.sqlite"], "edgeexit fit"),
    ],
)
def test_a_user_error_is_one_line_that_names_the_fix(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate_key(tmp_path / "KEY")
    (tmp_path / "empty").touch()
    make_bundle(tmp_path / "UNFITTED")
    with pytest.raises(EdgeExitError, match=message) as caught:
        invoke(*arguments)
    assert "\n" not in str(caught.value)

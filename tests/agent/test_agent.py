"""The agent with a real broker: reports, audits, commands, and failures of network, disk and callers."""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.agent import Agent, AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.errors import ConfigError, DataError, TargetError
from edgeexit.latency import LatencyProfile
from edgeexit.policies import AuditRule
from edgeexit.targets import host_target
from edgeexit.wire import MAX_BYTES, Audit, BrokerConfig, Report, State
from tests.agent.fleet import Fleet, wait_for, wait_for_reports, wait_for_revision
from tests.broker import RealBroker
from tests.bundles import INPUT, make_bundle, make_samples

Change = Callable[..., AgentConfig]


def test_every_inference_runs_under_one_policy_while_policies_change(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    """All samples exit at the first exit under odd revisions, and at the last exit under even ones."""
    samples, stop, counts = make_samples(4), threading.Event(), [0, 0, 0]

    def work(number: int) -> None:
        while not stop.is_set():
            result = agent.infer(samples)
            assert len(set(result.exits)) == 1
            counts[number] += len(result.exits)

    with Agent(bundle, config) as agent:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for revision in range(1, 11):
            fleet.send_policy(config, fleet.document(revision, threshold=0.0 if revision % 2 else None))
            wait_for(lambda revision=revision: agent.active.revision == revision, f"revision {revision}")
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
    newest = wait_for_reports(fleet, config, sum(counts))
    assert len(newest) > 5
    for revision, report in newest.items():
        exited = [exit_.exited for exit_ in report.exits]
        assert exited[1] == 0
        assert exited[2 if revision % 2 else 0] == 0, f"revision {revision} has {exited}"


def test_reports_are_cumulative_and_repeated_until_they_are_acknowledged(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config) as agent:
        for _ in range(3):
            agent.infer(make_samples(10))
            time.sleep(0.25)
        report = wait_for_reports(fleet, config, 30)[0]
        state = fleet.state(config)
        assert state is not None
        assert (report.start, report.bundle) == (state.start, bundle.digest)
        assert [exit_.reached for exit_ in report.exits] == [30, 30, 30]
        sequences = [message.sequence for message in fleet.messages(config, Report)]
        assert sequences == sorted(sequences)
        wait_for(
            lambda: [m.sequence for m in fleet.messages(config, Report)].count(report.sequence) > 1, "a repetition"
        )
        assert agent.unacknowledged == 1

        fleet.send_ack(config, report)
        wait_for(lambda: agent.unacknowledged == 0, "the acknowledged report to be deleted")
        time.sleep(0.2)
        fleet.received.clear()
        time.sleep(0.7)
        assert fleet.messages(config, Report) == []


def test_unacknowledged_messages_are_sent_after_a_restart(fleet: Fleet, bundle: Bundle, config: AgentConfig) -> None:
    with Agent(bundle, config) as agent:
        wait_for(lambda: agent.connected, "the broker")
        agent.infer(make_samples(5))
    before = wait_for_reports(fleet, config, 5)[0]
    fleet.received.clear()
    with Agent(bundle, config):
        assert wait_for(lambda: before in fleet.messages(config, Report), "the report of the last start")


def test_audits_contain_the_exit_taken_and_the_readouts_of_all_exits(
    fleet: Fleet, bundle: Bundle, changed: Change
) -> None:
    config = changed(audit_fraction=1.0)
    samples = make_samples(20)
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(1, threshold=0.45))
        wait_for_revision(fleet, config, 1)
        result = agent.infer(samples, labels=[n % 4 for n in range(20)])
        audits = wait_for(lambda: fleet.messages(config, Audit), "an audit")
        fleet.send_ack(config, *audits)
        wait_for(lambda: not agent._fleet._outbox.pending("audit", limit=1), "the acknowledged audit to be deleted")
    assert {(audit.revision, audit.bundle, audit.cohort) for audit in audits} == {(1, bundle.digest, "default")}
    found = [sample for audit in sorted(audits, key=lambda audit: audit.sequence) for sample in audit.samples]
    assert [sample.label for sample in found] == [n % 4 for n in range(20)]
    assert [sample.exit for sample in found] == result.exits.tolist()
    assert [sample.top1[sample.exit] for sample in found] == result.predictions.tolist()
    assert len(set(result.exits)) > 1, "the test needs samples that exit at different exits"


def test_a_policy_document_raises_the_audits_while_it_is_in_force(
    fleet: Fleet, bundle: Bundle, changed: Change
) -> None:
    config = changed(audit_fraction=1e-9, max_audit_fraction=1.0)
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(1, audit=AuditRule(fraction=1.0)))
        assert wait_for_revision(fleet, config, 1).audit_fraction == 1e-9
        agent.infer(make_samples(20))
        agent.infer_async(make_samples(5)).result()
        agent.infer_together([(make_samples(3), None), (make_samples(2), None)])
        fleet.send_policy(config, fleet.document(2))
        wait_for_revision(fleet, config, 2)
        agent.infer(make_samples(40))
    audits = {audit.sequence: audit for audit in fleet.messages(config, Audit)}.values()
    assert {audit.revision for audit in audits} == {1}
    assert sum(len(audit.samples) for audit in audits) == 30


def test_the_broker_may_start_later_stop_and_start_again(
    broker: RealBroker, bundle: Bundle, config: AgentConfig, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Agent(bundle, config) as agent:
        wait_for(lambda: "cannot connect to the broker" in caplog.text, "the warning about the broker")
        agent.infer(make_samples(7))
        wait_for(lambda: agent.unacknowledged, "a report in the outbox")
        broker.start()
        fleet = Fleet(broker.url, bundle, key)
        fleet.start()
        try:
            wait_for_reports(fleet, config, 7)
            wait_for_revision(fleet, config, 0)

            broker.stop()
            wait_for(lambda: not agent.connected, "the loss of the broker")
            agent.infer(make_samples(7))
            fleet.received.clear()
            broker.start()
            fleet.reconnected()
            wait_for_reports(fleet, config, 14)
            wait_for_revision(fleet, config, 0)
            fleet.send_policy(config, fleet.document(1))
            wait_for_revision(fleet, config, 1)
        finally:
            fleet.stop()
    assert caplog.text.count("cannot connect to the broker") <= 2, "logged once per outage"


def test_commands_are_executed_and_invalid_ones_are_logged_on_one_line(
    fleet: Fleet, bundle: Bundle, changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    config = changed(report_interval_s=3600.0)
    with Agent(bundle, config):
        wait_for_revision(fleet, config, 0)
        for invalid in (b"", b"\xff\x00", b'{"action":"reboot"}', b'{"x":' + b"[" * 100_000, b"y" * (MAX_BYTES + 1)):
            fleet.send_command_bytes(config, invalid)
        fleet.send_command(config, "report")
        wait_for(lambda: fleet.messages(config, Report), "a report on command")
        ignored = [record for record in caplog.records if "not a signed envelope" in record.message]
        assert len(ignored) >= 4, "one line for each kind of error"
        assert all("\n" not in record.message and len(record.message) < 500 for record in ignored)

        fleet.send_command(config, "profile")
        profile = wait_for(lambda: fleet.messages(config, LatencyProfile), "a profile")[0]
        assert (profile.bundle, len(profile.stages), profile.policy) == (bundle.digest, 3, "confidence")


def test_with_an_unusable_state_folder_only_new_policies_are_not_used_and_the_state_names_it(
    fleet: Fleet, bundle: Bundle, changed: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    config = changed(state_dir=tmp_path / "file" / "state", audit_fraction=1.0)
    with Agent(bundle, config) as agent:
        agent.infer(make_samples(5))
        wait_for_reports(fleet, config, 5)
        wait_for(lambda: fleet.messages(config, Audit), "an audit")
        fleet.send_policy(config, fleet.document(1))
        wait_for(
            lambda: (state := fleet.state(config)) and any("revision 1" in problem for problem in state.problems),
            "the state to name the policy",
        )
        assert any(problem.startswith("outbox ") for problem in fleet.state(config).problems)
        assert agent.active.revision == 0
    assert "messages are kept in memory" in caplog.text


def test_errors_of_the_caller_are_raised_and_counted(fleet: Fleet, bundle: Bundle, changed: Change) -> None:
    config = changed(audit_fraction=1.0)
    with Agent(bundle, config) as agent:
        wait_for(lambda: agent.connected, "the broker")
        with pytest.raises(DataError):
            agent.infer({"x": np.zeros((1, 5), dtype=np.float32)})
        with pytest.raises(DataError, match="2 labels were passed for 3 samples"):
            agent.infer(make_samples(3), labels=[0, 1])
        agent.infer(make_samples(3), labels=np.array([0, 1, 2]))
    assert wait_for_reports(fleet, config, 3)[0].failed == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([99, 1, 1], "label 99 of the batch is out of range; the model has 4 classes, numbered from 0"),
        ([1.5, 2, 3], "are not integers"),
        ([[1]] * 3, "are not integers"),
        (np.ones((3, 1), dtype=np.int64), "are not integers"),
        (["a"] * 3, "are not integers"),
        (1, "are not integers"),
    ],
)
def test_labels_that_are_not_classes_are_refused_before_inference(
    bundle: Bundle, changed: Change, caplog: pytest.LogCaptureFixture, labels: Any, message: str
) -> None:
    with Agent(bundle, changed(audit_fraction=1.0)) as agent:
        for infer in (agent.infer, agent.infer_async):
            with pytest.raises(DataError, match=message):
                infer(make_samples(3), labels=labels)
        assert agent.completed_batches == 0
    assert "Traceback" not in caplog.text


def test_a_second_agent_with_the_same_state_dir_is_refused_before_it_connects(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config) as agent:
        wait_for_revision(fleet, config, 0)
        with pytest.raises(ConfigError, match=f"another agent uses state_dir '{config.state_dir}'; stop it, or"):
            Agent(bundle, config).__enter__()
        time.sleep(0.3)
        assert agent.connected
        assert len(fleet.messages(config, State)) == 1
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 0


def test_a_state_folder_that_cannot_be_locked_is_logged_and_the_agent_runs(
    bundle: Bundle, changed: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with Agent(bundle, changed(state_dir=tmp_path / "file" / "state")) as agent:
        agent.infer(make_samples(1))
    assert "cannot be locked" in caplog.text


def test_an_agent_started_by_hand_makes_its_state_private(
    bundle: Bundle, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config.state_dir.mkdir()
    config.state_dir.chmod(0o755)
    before = os.umask(0o022)
    try:
        with Agent(bundle, config) as agent:
            agent.infer(make_samples(3))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in config.state_dir.iterdir()}
    finally:
        os.umask(before)
    assert {"outbox.db", "agent.lock"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(config.state_dir.stat().st_mode) == 0o700
    assert "had mode 0755; only its owner may read it now (0700)" in caplog.text


def test_the_log_and_the_description_report_a_bundle_without_a_policy(
    bundle: Bundle, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Agent(bundle, config) as agent:
        assert agent.policy_description == "revision 0 (no policy)"
    assert "the bundle has no policy: every sample runs to full depth; see `edgeexit fit`" in caplog.text
    assert "): revision 0 (no policy)" in caplog.text


def test_the_error_for_a_bundle_of_another_machine_names_the_fallback_setting(
    tmp_path: Path, config: AgentConfig
) -> None:
    other = make_bundle(tmp_path / "other", target="arm64-cpu" if host_target() == "x86-cpu" else "x86-cpu")
    with pytest.raises(TargetError, match=r"target of \S+, or allow fallback \(in agent\.toml, fallback = true\)$"):
        Agent(other, config)


def test_a_missing_broker_file_is_named_and_inference_works(
    bundle: Bundle, changed: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "ca.crt"
    with Agent(bundle, changed(broker=BrokerConfig(url="mqtts://127.0.0.1:1", ca_file=str(missing)))) as agent:
        agent.infer(make_samples(1))
    assert f"broker.ca_file '{missing}' cannot be read (No such file or directory)" in caplog.text


def test_a_wrong_number_of_labels_is_refused_before_inference(
    bundle: Bundle, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Agent(bundle, config) as agent:
        run, batches = agent._runner.infer, []

        def count(inputs: Any, **options: Any) -> Any:
            batches.append(np.shape(inputs[INPUT]))
            return run(inputs, **options)

        monkeypatch.setattr(agent._runner, "infer", count)
        with pytest.raises(DataError, match="2 labels were passed for 3 samples"):
            agent.infer(make_samples(3), labels=[0, 1])
        assert batches == []
        with pytest.raises(DataError, match="'x' is a scalar, but the model takes batchx8"):
            agent.infer({INPUT: np.array(1, dtype=np.float32)}, labels=[0])
        agent.infer(make_samples(3), labels=[0, 1, 2])
        assert batches == [(), (3, 8)]


def test_reports_count_samples_that_could_not_be_audited(fleet: Fleet, bundle: Bundle, changed: Change) -> None:
    config = changed(audit_fraction=1.0, not_finite="pass")
    with Agent(bundle, config) as agent:
        wait_for(lambda: agent.connected, "the broker")
        agent.infer({INPUT: np.full((2, 8), np.nan, dtype=np.float32)})
        wait_for(lambda: agent._auditor.skipped == 2, "the audit of samples with NaN outputs")
        agent.infer(make_samples(1))
    assert wait_for_reports(fleet, config, 3)[0].skipped == 2


def test_reports_count_messages_that_were_dropped(fleet: Fleet, bundle: Bundle, changed: Change) -> None:
    config = changed(audit_fraction=1.0, outbox_max_bytes=64 * 1024)
    with Agent(bundle, config) as agent:
        wait_for(lambda: agent.connected, "the broker")
        agent.infer(make_samples(2000))
        outbox = agent._fleet._outbox
        wait_for(lambda: outbox.losses.full, "dropped audits")
        dropped = outbox.losses.full
        agent.infer(make_samples(1))
    assert wait_for_reports(fleet, config, 2001)[0].losses.full >= dropped

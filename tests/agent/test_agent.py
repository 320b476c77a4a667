"""The agent and its fleet over a real broker: policies, reports, audits, and what may break."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.agent import Agent, AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.errors import DataError
from edgeexit.latency import LatencyProfile
from edgeexit.messages import MAX_BYTES, Audit, Report, State
from edgeexit.policies import Confidence, PolicyDocument, Rollout, Scope
from edgeexit.signing import generate_key, load_private_key
from tests.agent.fleet import Fleet, RealBroker, wait_for
from tests.bundles import make_bundle, make_samples

PIN = Scope(device="press-7")
Change = Callable[..., AgentConfig]


def wait_for_revision(fleet: Fleet, config: AgentConfig, revision: int) -> State:
    return wait_for(
        lambda: (state := fleet.state(config)) and state.online and state.revision == revision and state,
        f"revision {revision}",
    )


def wait_for_rejection(fleet: Fleet, config: AgentConfig, reason: str) -> State:
    return wait_for(
        lambda: (state := fleet.state(config)) and state.rejected and reason in state.rejected.reason and state,
        f"'{reason}', not {fleet.state(config)}",
    )


def test_a_policy_is_taken_over_the_air_and_holds_after_a_restart(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    samples = make_samples(50)
    with caplog.at_level(logging.INFO), Agent(bundle, config) as agent:
        state = wait_for_revision(fleet, config, 0)
        assert (state.bundle, state.cohort, state.boot, state.policy) == (bundle.digest, "default", 1, "confidence")
        assert set(agent.infer(samples).exits) == {2}, "without a policy every sample runs to full depth"

        fleet.send_policy(config, fleet.document(3, threshold=0.0))
        wait_for_revision(fleet, config, 3)
        assert agent.active.revision == 3
        assert set(agent.infer(samples).exits) == {0}
    assert "policy accepted: revision 3" in caplog.text
    assert fleet.state(config) == State(
        online=False, bundle=bundle.digest, cohort="default", boot=1, revision=3, policy="confidence", agent=state.agent
    )

    fleet.heard.clear()
    with Agent(bundle, config) as again:
        assert again.active.revision == 3
        assert wait_for_revision(fleet, config, 3).boot == 2


def test_refused_policies_are_told_and_the_good_one_stays_in_force(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, tmp_path: Path
) -> None:
    generate_key(tmp_path / "stranger.pem")
    stranger = load_private_key(tmp_path / "stranger.pem")
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(5))
        wait_for_revision(fleet, config, 5)
        for document, reason in (
            (fleet.document(4), "revision 4 is lower than 5"),
            (fleet.document(6, bundle="0" * 64), "it is for bundle 000000000000"),
            (fleet.document(7, exits=4), "it is for 4 exits"),
        ):
            fleet.send_policy(config, document)
            state = wait_for_rejection(fleet, config, reason)
            assert state.rejected is not None
            assert (state.revision, state.rejected.revision) == (5, document.revision)
        fleet.send_policy(config, fleet.document(8), key=stranger)
        wait_for_rejection(fleet, config, "wrong signature")
        fleet.send_policy_bytes(config, b"\x00garbage")
        wait_for_rejection(fleet, config, "not a signed envelope")
        fleet.send_policy_bytes(config, b"x" * (MAX_BYTES + 10))
        wait_for_rejection(fleet, config, "larger than")
        assert agent.active.revision == 5

        fleet.send_policy(config, fleet.document(9))
        assert wait_for_revision(fleet, config, 9).rejected is None


def test_without_trusted_keys_a_policy_is_refused_and_the_device_says_why(
    fleet: Fleet, bundle: Bundle, changed: Change
) -> None:
    config = changed(trusted_keys=())
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(1))
        wait_for_rejection(fleet, config, "no trusted keys are configured")
        assert agent.active.revision == 0


def test_an_equal_revision_is_ignored(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(2, threshold=0.4))
        wait_for_revision(fleet, config, 2)
        fleet.send_policy(config, fleet.document(2, threshold=0.9))
        wait_for(lambda: "revision 2 changes nothing" in caplog.text, "the second message")
        assert agent.active.policy.thresholds == (0.4, 0.4)
        state = fleet.state(config)
        assert state is not None
        assert state.rejected is None


def test_a_rollout_reaches_the_device_with_a_higher_percentage(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, half: Rollout, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(2))
        wait_for_revision(fleet, config, 2)
        fleet.send_policy(config, fleet.document(3, rollout=half))
        wait_for(lambda: "outside the first 50 %" in caplog.text, "the rollout's first step")
        assert agent.active.revision == 2
        fleet.send_policy(config, fleet.document(3, rollout=Rollout(percent=100, salt=half.salt)))
        wait_for_revision(fleet, config, 3)


def test_a_pin_wins_over_the_cohort_s_policy(fleet: Fleet, bundle: Bundle, config: AgentConfig) -> None:
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(2, threshold=0.1, scope=PIN))
        wait_for_revision(fleet, config, 2)
        fleet.send_policy(config, fleet.document(7, threshold=0.9))
        wait_for((config.state_dir / "policy-cohort.json").exists, "the cohort's policy on disk")
        assert agent.active == (2, fleet.document(2, threshold=0.1).policy)
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 2
    (config.state_dir / "policy-device.json").unlink()
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 7


def test_a_retained_policy_waits_for_a_device_that_comes_later(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    fleet.send_policy(config, fleet.document(4))
    with Agent(bundle, config):
        wait_for_revision(fleet, config, 4)


def test_every_inference_is_under_one_policy_while_policies_change(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    """Odd revisions let everything leave at once, even ones let nothing leave early."""
    samples, stop, answered = make_samples(4), threading.Event(), [0, 0, 0]

    def work(number: int) -> None:
        while not stop.is_set():
            result = agent.infer(samples)
            assert len(set(result.exits)) == 1
            answered[number] += len(result.exits)

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
    newest = wait_for_reports(fleet, config, sum(answered))
    assert len(newest) > 5
    for revision, report in newest.items():
        exited = [exit_.exited for exit_ in report.exits]
        assert exited[1] == 0
        assert exited[2 if revision % 2 else 0] == 0, f"revision {revision} has {exited}"


def newest_reports(fleet: Fleet, config: AgentConfig) -> dict[int, Report]:
    """Return the report with the highest sequence of every revision."""
    return {report.revision: report for report in sorted(fleet.messages(config, Report), key=lambda r: r.sequence)}


def wait_for_reports(fleet: Fleet, config: AgentConfig, answered: int) -> dict[int, Report]:
    def all_there() -> dict[int, Report] | None:
        newest = newest_reports(fleet, config)
        total = sum(exit_.exited for report in newest.values() for exit_ in report.exits)
        return newest if total == answered else None

    found: dict[int, Report] = wait_for(all_there, f"reports of {answered} answers")
    return found


def test_reports_are_cumulative_and_sent_again_until_they_are_acknowledged(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config) as agent:
        for _ in range(3):
            agent.infer(make_samples(10))
            time.sleep(0.25)
        report = wait_for_reports(fleet, config, 30)[0]
        assert (report.outbox, report.boot, report.bundle) == (agent._outbox.identity, 1, bundle.digest)
        assert [exit_.reached for exit_ in report.exits] == [30, 30, 30]
        sequences = [message.sequence for message in fleet.messages(config, Report)]
        assert sequences == sorted(sequences)
        wait_for(
            lambda: [m.sequence for m in fleet.messages(config, Report)].count(report.sequence) > 1, "a repetition"
        )
        assert agent.waiting == 1

        fleet.send_ack(config, report)
        wait_for(lambda: agent.waiting == 0, "the acknowledged report to go")
        time.sleep(0.2)
        fleet.heard.clear()
        time.sleep(0.7)
        assert fleet.messages(config, Report) == []


def test_what_was_not_acknowledged_is_sent_by_the_next_start(fleet: Fleet, bundle: Bundle, config: AgentConfig) -> None:
    with Agent(bundle, config) as agent:
        agent.infer(make_samples(5))
    before = wait_for_reports(fleet, config, 5)[0]
    fleet.heard.clear()
    with Agent(bundle, config):
        assert wait_for(lambda: before in fleet.messages(config, Report), "the last boot's report")


def test_audits_hold_what_the_policy_did_and_every_exit(fleet: Fleet, bundle: Bundle, changed: Change) -> None:
    config = changed(audit_share=1.0)
    samples = make_samples(20)
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(1, threshold=0.45))
        wait_for_revision(fleet, config, 1)
        result = agent.infer(samples, labels=list(range(20)))
        audits = wait_for(lambda: fleet.messages(config, Audit), "an audit")
        fleet.send_ack(config, *audits)
        wait_for(lambda: all(m.kind == "report" for m in agent._outbox.waiting()), "the acknowledged audit to go")
    assert {(audit.revision, audit.bundle, audit.cohort) for audit in audits} == {(1, bundle.digest, "default")}
    found = sorted((sample for audit in audits for sample in audit.samples), key=lambda sample: sample.label or 0)
    assert [sample.label for sample in found] == list(range(20))
    assert [sample.exit for sample in found] == result.exits.tolist()
    assert [sample.top1[sample.exit] for sample in found] == result.answers.tolist()
    assert len(set(result.exits)) > 1, "the samples must not all leave at one exit, or this shows little"


def test_the_broker_may_come_later_and_go_and_come_back(
    broker: RealBroker, bundle: Bundle, config: AgentConfig, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Agent(bundle, config) as agent:
        wait_for(lambda: "is not reachable" in caplog.text, "a word about the broker")
        agent.infer(make_samples(7))
        wait_for(lambda: agent.waiting, "a report that waits")
        broker.start()
        fleet = Fleet(broker.url, bundle, key)
        fleet.start()
        try:
            wait_for_reports(fleet, config, 7)
            wait_for_revision(fleet, config, 0)

            broker.stop()
            wait_for(lambda: not agent.connected, "the loss of the broker")
            agent.infer(make_samples(7))
            fleet.heard.clear()
            broker.start()
            fleet.reconnected()
            wait_for_reports(fleet, config, 14)
            wait_for_revision(fleet, config, 0)
            fleet.send_policy(config, fleet.document(1))
            wait_for_revision(fleet, config, 1)
        finally:
            fleet.stop()
    assert caplog.text.count("is not reachable") <= 2, "said once for each time that it was away"


def test_commands_are_followed_and_nonsense_is_told_in_one_line(
    fleet: Fleet, bundle: Bundle, changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    config = changed(report_interval_s=3600.0)
    with Agent(bundle, config):
        wait_for_revision(fleet, config, 0)
        for nonsense in (b"", b"\xff\x00", b'{"action":"reboot"}', b'{"x":' + b"[" * 100_000, b"y" * (MAX_BYTES + 1)):
            fleet.send_command_bytes(config, nonsense)
        fleet.send_command(config, "report")
        wait_for(lambda: fleet.messages(config, Report), "a report on command")
        ignored = [record for record in caplog.records if "is ignored" in record.message]
        assert len(ignored) == 5
        assert all("\n" not in record.message and len(record.message) < 500 for record in ignored)

        fleet.send_command(config, "profile")
        profile = wait_for(lambda: fleet.messages(config, LatencyProfile), "a profile")[0]
        assert (profile.bundle, len(profile.stages), profile.policy) == (bundle.digest, 3, "confidence")


def test_a_state_folder_that_cannot_be_used_stops_nothing_but_new_policies(
    fleet: Fleet, bundle: Bundle, changed: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    config = changed(state_dir=tmp_path / "file" / "state", audit_share=1.0)
    with Agent(bundle, config) as agent:
        agent.infer(make_samples(5))
        wait_for_reports(fleet, config, 5)
        wait_for(lambda: fleet.messages(config, Audit), "an audit")
        fleet.send_policy(config, fleet.document(1))
        wait_for_rejection(fleet, config, "it cannot be stored")
        assert agent.active.revision == 0
    assert caplog.text.count("messages are kept in memory") == 1


def test_a_damaged_stored_policy_gives_way_to_the_bundle_s_own(
    tmp_path: Path, config: AgentConfig, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle(tmp_path / "own", seed=5)
    own = Confidence(temperatures=(1.0, 1.0, 1.0), thresholds=(0.3, 0.3))
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=own))
    config.state_dir.mkdir()
    (config.state_dir / "policy-cohort.json").write_bytes(b'{"payload":"half of an envel')
    with Agent(bundle, config) as agent:
        assert agent.active == (0, own)
    assert "policy-cohort.json' is not used" in caplog.text

    (bundle.path / "policy.json").write_bytes(b"not even JSON")
    with Agent(bundle, config) as agent:
        assert set(agent.infer(make_samples(20)).exits) == {2}
    assert "runs to full depth" in caplog.text


def test_a_policy_of_the_bundle_before_is_not_used_with_a_new_one(
    tmp_path: Path, config: AgentConfig, fleet: Fleet, bundle: Bundle
) -> None:
    with Agent(bundle, config):
        fleet.send_policy(config, fleet.document(9))
        wait_for_revision(fleet, config, 9)
    other = make_bundle(tmp_path / "other", seed=9)
    with Agent(other, config) as agent:
        assert agent.active.revision == 0
        state = wait_for(
            lambda: (s := fleet.state(config)) and s.online and s.bundle == other.digest and s, "the new bundle"
        )
        time.sleep(0.2)
        assert state.rejected is None, "the old cohort's retained policy is no concern of the new bundle"


def test_errors_of_the_caller_are_his_and_are_counted(fleet: Fleet, bundle: Bundle, changed: Change) -> None:
    config = changed(audit_share=1.0)
    with Agent(bundle, config) as agent:
        with pytest.raises(DataError):
            agent.infer({"x": np.zeros((1, 5), dtype=np.float32)})
        with pytest.raises(DataError, match="labels holds 2 classes for 3 samples"):
            agent.infer(make_samples(3), labels=[0, 1])
        agent.infer(make_samples(3), labels=np.array([0, 1, 2]))
        agent.infer(make_samples(3), labels=["a", "b", "c"])  # type: ignore[list-item]
    assert wait_for_reports(fleet, config, 6)[0].failed == 1

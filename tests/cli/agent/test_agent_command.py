"""`edgeexit agent` as a process: its output, a clean stop, and what the fleet receives when it is killed."""

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeexit.agent import Agent, AgentConfig, SampleStream
from edgeexit.agent.stream import StreamSample
from edgeexit.bundle import Bundle
from edgeexit.cli.agent import _replay, _Tally
from edgeexit.npz import save_arrays
from edgeexit.wire import Audit, Report
from tests.agent.damage import encrypt
from tests.agent.fleet import Fleet, wait_for, wait_for_reports, wait_for_revision
from tests.broker import RealBroker
from tests.bundles import make_samples
from tests.cli.agent.process import AGENT, running

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def settings(tmp_path: Path, config: AgentConfig) -> list[str]:
    """Arguments that run the device of `config` on samples with labels; the file names another device and broker."""
    (tmp_path / "agent.toml").write_text(
        f'fleet = "plant"\ntrusted_keys = ["{config.trusted_keys[0]}"]\naudit_fraction = 1.0\nreport_interval_s = 0.3\n'
        "policy_trial_s = 0\n"  # a killed agent keeps its policy
        'device = "overridden"\n[broker]\nurl = "mqtt://127.0.0.1:1"\n'
    )
    save_arrays(tmp_path / "samples.npz", {**make_samples(30), "labels": np.arange(30) % 4})
    files = ["--config", str(tmp_path / "agent.toml"), "--stream", str(tmp_path / "samples.npz")]
    return [*files, "--device", config.device, "--broker", config.broker.url]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_agent_cleanly(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, settings: list[str], end: signal.Signals
) -> None:
    with running(bundle, *settings, "--rate", "100", "--json") as process:
        wait_for_revision(fleet, config, 0)
        fleet.send_policy(config, fleet.document(3, threshold=0.45))
        wait_for_revision(fleet, config, 3)
        wait_for(lambda: any(audit.revision == 3 for audit in fleet.messages(config, Audit)), "audits under the policy")
        fleet.send_policy(config, fleet.document(2))
        process.send_signal(end)
        out, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    summary = json.loads(out)
    assert (summary["revision"], summary["policy"], summary["failed"]) == (3, "confidence", 0)
    assert summary["samples"] > 0
    assert sum(summary["exit_rates"]) == pytest.approx(1)
    assert 0 <= summary["accuracy"] <= 1
    wait_for_reports(fleet, config, summary["samples"])
    state = wait_for(lambda: (s := fleet.state(config)) and not s.online and s, "the offline state")
    assert state.revision == 3
    labels = {sample.label for audit in fleet.messages(config, Audit) for sample in audit.samples}
    assert labels == {0, 1, 2, 3}
    lines = log.splitlines()
    assert sum("connected to the broker" in line for line in lines) == 1
    assert sum("policy accepted: revision 3" in line for line in lines) == 1
    assert sum(f"stopping: {end.name}" in line for line in lines) == 1
    assert "Traceback" not in log


def test_a_stream_file_that_becomes_unreadable_does_not_stop_the_agent(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, settings: list[str], tmp_path: Path
) -> None:
    with running(bundle, *settings, "--rate", "100", "--json") as process:
        wait_for_revision(fleet, config, 0)
        encrypt(tmp_path / "samples.npz")
        before = reported_samples(fleet, config)
        wait_for(lambda: reported_samples(fleet, config) > before + 50, "more samples")
        process.terminate()
        out, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert json.loads(out)["failed"] == 0
    assert log.count("continues with the old samples") == 1
    assert "Traceback" not in log


class FailingStream(SampleStream):
    """Raises an unexpected error for every second sample."""

    calls = 0

    def next_sample(self) -> StreamSample:
        self.calls += 1
        if self.calls % 2:
            raise RuntimeError("the disk failed")
        return super().next_sample()


def test_samples_that_cannot_be_read_are_logged_once_with_their_number_and_do_not_stop_the_agent(
    bundle: Bundle, config: AgentConfig, settings: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = FailingStream(tmp_path / "samples.npz", bundle.manifest)
    with Agent(bundle, config) as agent:
        tally = _Tally()
        _replay(agent, samples, tally, rate=100, duration_s=0.3, stop=threading.Event())
        summary = tally.summary(agent)
    assert summary.samples > 1
    assert summary.failed >= summary.samples
    first, last = [text for record in caplog.records if "the disk failed" in (text := record.getMessage())]
    assert first == "a sample of the stream failed: the disk failed"
    assert last == f"{first} ({summary.failed - 1:,} more in the last 1 s)"


def reported_samples(fleet: Fleet, config: AgentConfig) -> int:
    reports = fleet.messages(config, Report)
    return sum(exit_.exited for exit_ in reports[-1].exits) if reports else 0


def test_a_killed_agent_is_reported_offline_and_starts_again(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, settings: list[str], tmp_path: Path
) -> None:
    with running(bundle, *settings, "--rate", "0") as process:
        wait_for_revision(fleet, config, 0)
        fleet.send_policy(config, fleet.document(1))
        wait_for_revision(fleet, config, 1)
        wait_for(lambda: fleet.messages(config, Audit), "audits")
        process.kill()
    state = wait_for(lambda: (s := fleet.state(config)) and not s.online and s, "the will")
    assert len(state.start) == 16
    with running(bundle, *settings, "--duration", "0.2") as process:
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "): revision 1 " in log
    assert state.start not in log
    assert "the bundle has no policy" not in log, "the fleet's policy is active"
    assert "is not usable" not in log


def test_an_unsigned_bundle_is_refused_if_the_configuration_requires_a_signature(
    broker: RealBroker, bundle: Bundle, settings: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("signed_bundle = true\n" + file.read_text())
    done = subprocess.run(
        [*AGENT, str(bundle.path), *settings], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert "signature.json is missing" in done.stderr


def test_without_a_broker_the_agent_works_and_logs_it_once(
    broker: RealBroker, bundle: Bundle, settings: list[str], tmp_path: Path
) -> None:
    with running(bundle, *settings, "--rate", "200", "--duration", "3") as process:
        out, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert log.count("cannot connect to the broker") == 1
    assert log.count("stopping: --duration is over") == 1
    assert "revision 0 (no policy)" in out
    assert "reports and audits without acknowledgement: " in " ".join(out.split())
    assert int(out.split(" samples")[0].replace(",", "")) > 200
    assert "e2 100.0 %" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--device", "a/b"], "--device 'a/b'"),
        (["--broker", "ftp://x"], "--broker: broker url 'ftp://x'"),
        (["--stream", "nowhere.npz"], "nowhere.npz"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_wrong_option_gives_one_line_and_exit_code_2(
    broker: RealBroker, bundle: Bundle, settings: list[str], arguments: list[str], named: str
) -> None:
    done = subprocess.run(
        [*AGENT, str(bundle.path), *settings, *arguments], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1

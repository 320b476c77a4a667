"""`edgeexit agent` as a service, in a separate process."""

import gc
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent import Agent, AgentConfig, EndpointConfig
from edgeexit.agent.service import serving
from edgeexit.agent.systemd import Notifier
from edgeexit.bundle import Bundle
from edgeexit.cli.agent import agent_command
from edgeexit.errors import ConfigError
from edgeexit.wire import State
from tests.agent.endpoint.client import MODEL, infer_request, send_request
from tests.agent.fleet import Fleet, wait_for, wait_for_reports, wait_for_revision
from tests.broker import RealBroker
from tests.bundles import INPUT, make_samples
from tests.cli.agent.process import AGENT, running


def write_config(folder: Path, config: AgentConfig, *, top: str = "", endpoint: str = "port = 0") -> list[str]:
    """Write the configuration of `config` to a file; return the arguments that name it."""
    path = folder / "agent.toml"
    path.write_text(
        f'fleet = "plant"\ndevice = "{config.device}"\nreport_interval_s = 60\n{top}\n'
        f'[broker]\nurl = "{config.broker.url}"\n[endpoint]\n{endpoint}\n'
    )
    return ["--config", str(path)]


class Log:
    """Reads the log of a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines = process.stderr
        self.text = ""

    def until(self, pattern: str) -> re.Match[str]:
        assert self._lines is not None
        for line in self._lines:
            self.text += line
            if (found := re.search(pattern, line)) is not None:
                return found
        raise AssertionError(f"the process ended without '{pattern}':\n{self.text}")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_service_runs_until_a_signal_and_then_sends_the_last_report(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, tmp_path: Path, end: signal.Signals
) -> None:
    with running(bundle, *write_config(tmp_path, config), "--json") as process:
        log = Log(process)
        port = int(log.until(r"serves model 'tiny' on http://127\.0\.0\.1:(\d+)")[1])
        wait_for_revision(fleet, config, 0)
        for _ in range(5):
            assert send_request(port, f"{MODEL}/infer", infer_request(make_samples(2)[INPUT])).status == 200
        assert send_request(port, f"{MODEL}/infer", {"inputs": []}).status == 400
        process.send_signal(end)
        out, rest = process.communicate(timeout=20)
    assert process.returncode == 0, log.text + rest
    summary = json.loads(out)
    assert (summary["samples"], summary["failed"], summary["exit_rates"]) == (10, 1, [0, 0, 1])
    wait_for_reports(fleet, config, 10)
    wait_for(lambda: (state := fleet.state(config)) and not state.online, "the offline state")
    assert "Traceback" not in log.text + rest


def test_the_service_starts_without_network_and_without_a_disk(
    bundle: Bundle, config: AgentConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = write_config(tmp_path, config, top='state_dir = "file/state"')
    with running(bundle, *arguments, "--broker", "mqtt://no.such.host.invalid") as process:
        log = Log(process)
        port = int(log.until(r"serves model 'tiny' on http://127\.0\.0\.1:(\d+)")[1])
        assert send_request(port, f"{MODEL}/infer", infer_request(make_samples(2)[INPUT])).status == 200
        process.terminate()
        out, rest = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.startswith("2 samples, 0 failed")
    text = log.text + rest
    assert "no.such.host.invalid" in text
    assert "kept in memory" in text
    assert "Traceback" not in text


def test_systemd_is_notified_of_ready_and_stopping(
    bundle: Bundle, config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(20)
        with running(bundle, *write_config(tmp_path, config), "--duration", "0.2") as process:
            assert [receiver.recv(100), receiver.recv(100)] == [b"READY=1", b"STOPPING=1"]
            _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log


def error_of(bundle: Bundle, *arguments: str) -> str:
    done = subprocess.run(
        [*AGENT, str(bundle.path), *arguments], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_port_in_use_gives_one_line_that_names_it(bundle: Bundle, config: AgentConfig, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = error_of(bundle, *write_config(tmp_path, config, endpoint=f"port = {port}"))
    assert f"port {port} on 127.0.0.1 is not available" in error
    assert "set another host or port under [endpoint]" in error


def test_a_second_agent_on_the_port_does_not_affect_the_first(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, tmp_path: Path
) -> None:
    with running(bundle, *write_config(tmp_path, config)) as process:
        port = int(Log(process).until(r"on http://127\.0\.0\.1:(\d+)")[1])
        wait_for_revision(fleet, config, 0)
        error = error_of(bundle, *write_config(tmp_path, config, top='state_dir = "other"', endpoint=f"port = {port}"))
        assert f"port {port} on 127.0.0.1 is not available" in error
        assert not (tmp_path / "other").exists()
        assert len(fleet.messages(config, State)) == 1
        error = error_of(bundle, *write_config(tmp_path, config))
        assert "another agent uses state_dir" in error
        assert len(fleet.messages(config, State)) == 1
        assert send_request(port, "/v2/health/ready").status == 200


def test_the_command_excludes_long_lived_objects_from_garbage_collection(
    bundle: Bundle, config: AgentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = write_config(tmp_path, config)
    try:
        agent_command(bundle.path, Path(path), duration=0.1)
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_an_agent_without_endpoint_and_stream_is_refused(bundle: Bundle, config: AgentConfig, tmp_path: Path) -> None:
    error = error_of(bundle, *write_config(tmp_path, config, endpoint="enabled = false"))
    assert "endpoint.enabled is false, so the agent would have no work; enable it, or use --stream" in error


def test_a_replaying_agent_serves_if_the_endpoint_is_enabled(
    broker: RealBroker, bundle: Bundle, config: AgentConfig, tmp_path: Path
) -> None:
    with Agent(bundle, config) as agent:
        on = EndpointConfig(port=0, enabled=True)
        with serving(agent, on, by_default=False, notifier=Notifier({})) as endpoint:
            assert endpoint is not None
            assert send_request(endpoint.port, "/v2/health/ready").status == 200
        with serving(agent, EndpointConfig(port=0), by_default=False, notifier=Notifier({})) as endpoint:
            assert endpoint is None


def test_without_httptools_the_error_names_the_extra_to_install(
    bundle: Bundle, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("httptools", "edgeexit.agent.endpoint"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httptools", None)
    with (
        Agent(bundle, config) as agent,
        pytest.raises(ConfigError, match=r"install edgeexit\[endpoint\]"),
        serving(agent, EndpointConfig(port=0), by_default=True, notifier=Notifier({})),
    ):
        pass


def test_importing_the_agent_imports_no_heavy_or_optional_package() -> None:
    code = "import sys, edgeexit.agent; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy: set[Any] = {"httptools", "onnxruntime", "tensorrt", "typer", "rich", "onnx", "torch", "scipy"}
    assert not heavy & set(loaded)


def test_help_shows_both_uses() -> None:
    text = subprocess.run([*AGENT, "--help"], capture_output=True, text=True, check=True).stdout
    text = " ".join(re.sub(r"[^\x20-\x7e]", " ", text).split())
    assert "edgeexit agent mybundle --config agent.toml" in text
    assert "--stream quickstart/test.npz" in text
    assert "Open Inference Protocol" in text

"""Notifications to systemd: ready, watchdog resets while inference works, stopping."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent import Agent, AgentConfig, EndpointConfig
from edgeexit.agent.service import serving
from edgeexit.agent.systemd import Notifier
from edgeexit.bundle import Bundle
from tests.agent.fleet import wait_for


class Systemd:
    """Receives the notifications in the place of systemd."""

    def __init__(self, name: str) -> None:
        self.received: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self.environment = {"NOTIFY_SOCKET": name}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def count(self, message: str) -> int:
        return self.received.count(message)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _listen(self) -> None:
        while message := self._socket.recv(4096).decode():
            self.received.append(message)


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    real = Systemd(f"@edgeexit-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify"))
    yield real
    real.close()


def test_the_service_reports_ready_once_then_resets_the_watchdog_and_reports_stopping(
    systemd: Systemd, bundle: Bundle, config: AgentConfig
) -> None:
    notifier = Notifier({**systemd.environment, "WATCHDOG_USEC": "200000"})
    with Agent(bundle, config) as agent:
        assert systemd.received == []
        with serving(agent, EndpointConfig(port=0), by_default=True, notifier=notifier):
            wait_for(lambda: systemd.count("WATCHDOG=1") > 2, "watchdog resets")
            assert systemd.count("READY=1") == 1
            assert "STOPPING=1" not in systemd.received
            notifier.status("42 samples\nexits 50 %")
            wait_for(lambda: "STATUS=42 samples exits 50 %" in systemd.received, "the status on one line")
        wait_for(lambda: "STOPPING=1" in systemd.received, "the stopping message")
    assert [message for message in systemd.received if message.startswith(("READY", "STOP"))] == [
        "READY=1",
        "STOPPING=1",
    ]


@pytest.mark.parametrize("hung", ["backend", "loop"])
def test_the_watchdog_is_not_reset_while_inference_hangs(
    bundle: Bundle, config: AgentConfig, tmp_path: Path, hung: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    notifier = Notifier({**systemd.environment, "WATCHDOG_USEC": "200000"})
    resume = threading.Event()
    with (
        Agent(bundle, config) as agent,
        serving(agent, EndpointConfig(port=0), by_default=True, notifier=notifier) as endpoint,
    ):
        assert endpoint is not None
        wait_for(lambda: systemd.count("WATCHDOG=1") > 1, "watchdog resets")
        if hung == "backend":
            begin = agent._runner._backend.begin
            monkeypatch.setattr(agent._runner._backend, "begin", lambda *a, **k: (resume.wait(20), begin(*a, **k))[1])
        else:
            endpoint._serving.result().call_soon_threadsafe(resume.wait, 20)
        wait_for(lambda: "inference does not complete" in caplog.text, "the hang to be detected")
        resets = systemd.count("WATCHDOG=1")
        assert not endpoint._service.ready
        checks: list[bool] = []
        set_ready = endpoint.set_ready
        monkeypatch.setattr(endpoint, "set_ready", lambda *, ready: (checks.append(ready), set_ready(ready=ready)))
        wait_for(lambda: len(checks) > 2, "more checks")
        assert not any(checks)
        assert systemd.count("WATCHDOG=1") == resets
        resume.set()
        wait_for(lambda: systemd.count("WATCHDOG=1") > resets, "a watchdog reset")
        wait_for(lambda: endpoint._service.ready, "the endpoint to be ready again")
    systemd.close()


@pytest.mark.parametrize(
    ("environment", "timeout_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "30000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"}, None),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_timeout_is_read_if_it_is_meant_for_this_process(
    environment: dict[str, str], timeout_s: float | None
) -> None:
    notifier = Notifier(environment)
    assert notifier.watchdog_s == timeout_s
    notifier.ready()  # without a receiver this must not raise

"""What systemd hears over its socket: ready, alive as long as inference answers, stopping."""

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
    """The other end of the socket."""

    def __init__(self, name: str) -> None:
        self.heard: list[str] = []
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._line.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self.environment = {"NOTIFY_SOCKET": name}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def count(self, word: str) -> int:
        return self.heard.count(word)

    def close(self) -> None:
        self._line.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._line.close()

    def _listen(self) -> None:
        while message := self._line.recv(4096).decode():
            self.heard.append(message)


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    real = Systemd(f"@edgeexit-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify"))
    yield real
    real.close()


def test_ready_once_it_serves_alive_while_it_does_and_stopping_at_the_end(
    systemd: Systemd, bundle: Bundle, config: AgentConfig
) -> None:
    notifier = Notifier({**systemd.environment, "WATCHDOG_USEC": "200000"})
    with Agent(bundle, config) as agent:
        assert systemd.heard == []
        with serving(agent, EndpointConfig(port=0), by_default=True, notifier=notifier):
            wait_for(lambda: systemd.count("WATCHDOG=1") > 2, "signs of life")
            assert systemd.count("READY=1") == 1
            assert "STOPPING=1" not in systemd.heard
            notifier.status("42 answered\nexits 50 %")
            wait_for(lambda: "STATUS=42 answered exits 50 %" in systemd.heard, "the status, in one line")
        wait_for(lambda: "STOPPING=1" in systemd.heard, "the end")
    assert [word for word in systemd.heard if word.startswith(("READY", "STOP"))] == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize("hung", ["backend", "loop"])
def test_the_watchdog_is_not_fed_while_inference_hangs(
    bundle: Bundle, config: AgentConfig, tmp_path: Path, hung: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    notifier = Notifier({**systemd.environment, "WATCHDOG_USEC": "200000"})
    go_on = threading.Event()
    with (
        Agent(bundle, config) as agent,
        serving(agent, EndpointConfig(port=0), by_default=True, notifier=notifier) as endpoint,
    ):
        assert endpoint is not None
        wait_for(lambda: systemd.count("WATCHDOG=1") > 1, "signs of life")
        if hung == "backend":
            begin = agent._runner._backend.begin
            monkeypatch.setattr(agent._runner._backend, "begin", lambda *a, **k: (go_on.wait(20), begin(*a, **k))[1])
        else:
            endpoint._serving.result().call_soon_threadsafe(go_on.wait, 20)
        wait_for(lambda: "inference does not complete" in caplog.text, "the hang to be seen")
        fed = systemd.count("WATCHDOG=1")
        assert not endpoint._service.ready
        beats: list[bool] = []
        tell = endpoint.set_ready
        monkeypatch.setattr(endpoint, "set_ready", lambda *, ready: (beats.append(ready), tell(ready=ready)))
        wait_for(lambda: len(beats) > 2, "two more beats")
        assert not any(beats)
        assert systemd.count("WATCHDOG=1") == fed
        go_on.set()
        wait_for(lambda: systemd.count("WATCHDOG=1") > fed, "life again")
        wait_for(lambda: endpoint._service.ready, "the endpoint to be ready again")
    systemd.close()


@pytest.mark.parametrize(
    ("environment", "patience_s"),
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
def test_the_watchdog_s_patience_is_read_where_it_is_meant_for_this_process(
    environment: dict[str, str], patience_s: float | None
) -> None:
    notifier = Notifier(environment)
    assert notifier.watchdog_s == patience_s
    notifier.ready()  # nobody listens, and that is no error

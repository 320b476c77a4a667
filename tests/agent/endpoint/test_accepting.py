"""Accepting connections when file descriptors are scarce: in a process of its own, whose limit is really low."""

import contextlib
import errno
import http.client
import json
import logging
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import pytest

from edgeexit.agent.endpoint import descriptors
from edgeexit.agent.endpoint.accepting import Acceptor
from edgeexit.limited_log import LimitedLog
from tests.agent.endpoint.client import MODEL, infer_request
from tests.bundles import INPUT, make_bundle, make_samples

BODY = json.dumps(infer_request(make_samples(1)[INPUT])).encode()
PROGRAM = textwrap.dedent(
    """
    import json, logging, resource, sys, threading
    from pathlib import Path
    from edgeexit.agent import Agent, AgentConfig, EndpointConfig
    from edgeexit.agent.endpoint.server import Endpoint
    from edgeexit.bundle import Bundle

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    folder, options, taken = Path(sys.argv[1]), json.loads(sys.argv[2]), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), int(sys.argv[4])))
    with (
        Agent(Bundle.open(folder / "bundle"), AgentConfig(fleet="f", device="d", state_dir=folder / "state")) as agent,
        Endpoint(agent, EndpointConfig(port=0, **options)) as endpoint,
    ):
        free, begin = threading.Event(), agent._runner._backend.begin
        free.set()
        agent._runner._backend.begin = lambda *a, **o: free.wait(20) and begin(*a, **o)
        print(endpoint.port, resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)
        for line in sys.stdin:
            if line == "take\\n":  # every descriptor that is left
                try:
                    while True:
                        taken.append(open("/dev/null"))
                except OSError:
                    pass
            elif line == "give\\n":
                while taken:
                    taken.pop().close()
            elif line == "block\\n":
                free.clear()
            elif line == "unblock\\n":
                free.set()
            elif line == "cpu\\n":
                used = resource.getrusage(resource.RUSAGE_SELF)
                print(used.ru_utime + used.ru_stime, flush=True)
                continue
            print(len(taken), flush=True)
    """
)


class AgentProcess(NamedTuple):
    process: Any
    log: Path
    port: int
    soft_limit: int

    def ask(self, command: str) -> float:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@contextlib.contextmanager
def start(folder: Path, *, soft: int, hard: int, **options: Any) -> Iterator[AgentProcess]:
    """Run an agent with an endpoint in a process with these limits on open files."""
    make_bundle(folder / "bundle")
    log = folder / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), json.dumps(options), str(soft), str(hard)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            words = process.stdout.readline().split()
            assert words, log.read_text()
            yield AgentProcess(process, log, int(words[0]), int(words[1]))
        finally:
            process.stdin.close()
            process.wait(30)


@contextlib.contextmanager
def client_of(agent: AgentProcess) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", agent.port, timeout=20)) as client:
        yield client


def infer(client: http.client.HTTPConnection) -> int:
    client.request("POST", f"{MODEL}/infer", BODY)
    response = client.getresponse()
    response.read()
    return response.status


def health(client: http.client.HTTPConnection) -> int:
    client.request("GET", "/v2/health/live")
    response = client.getresponse()
    response.read()
    return response.status


def test_without_a_free_descriptor_idle_clients_make_room_and_the_log_stays_short(tmp_path: Path) -> None:
    with start(tmp_path, soft=128, hard=128) as agent, client_of(agent) as working:
        assert infer(working) == 200
        agent.ask("take")
        before_s = agent.ask("cpu")
        with contextlib.ExitStack() as resources:
            flood = [resources.enter_context(client_of(agent)) for _ in range(200)]
            for client in flood:
                client.connect()
            time.sleep(1.0)
            statuses = [health(client) for client in flood[-5:]]
            used_s = agent.ask("cpu") - before_s
        agent.ask("give")
        with client_of(agent) as later:
            assert infer(later) == 200
        assert set(statuses) <= {200, 503}
        assert used_s < 0.5  # seconds of a processor; other processes do not add to it
    lines = [line for line in agent.log.read_text().splitlines() if "accept" in line]
    assert len(lines) <= 2, lines
    assert "limit on open files; raise LimitNOFILE= in the systemd unit" in lines[0]
    assert agent.log.stat().st_size < 10_000


def test_clients_with_a_request_in_flight_are_served_and_others_get_a_503(tmp_path: Path) -> None:
    with start(tmp_path, soft=128, hard=128, inline_ms=0) as agent, client_of(agent) as working:
        assert infer(working) == 200
        agent.ask("block")
        working.request("POST", f"{MODEL}/infer", BODY)
        agent.ask("take")
        for _ in range(3):
            with client_of(agent) as other:
                other.request("GET", "/v2/health/live")
                response = other.getresponse()
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert json.loads(response.read())["error"] == "too many connections are open; try again later"
        agent.ask("unblock")
        assert working.getresponse().status == 200


def test_a_low_soft_limit_is_raised_as_far_as_needed(tmp_path: Path) -> None:
    with start(tmp_path, soft=64, hard=4096, max_connections=300) as agent, contextlib.ExitStack() as resources:
        assert 300 < agent.soft_limit < 4096
        for client in [resources.enter_context(client_of(agent)) for _ in range(290)]:
            assert health(client) == 200
    assert f"raised the limit on open files of this process from 64 to {agent.soft_limit}" in agent.log.read_text()
    assert "accept" not in agent.log.read_text()


def test_a_low_hard_limit_reduces_the_connections_and_says_what_to_do(tmp_path: Path) -> None:
    with start(tmp_path, soft=96, hard=96, max_connections=300) as agent, contextlib.ExitStack() as resources:
        for client in [resources.enter_context(client_of(agent)) for _ in range(200)]:
            assert health(client) == 200
    (line,) = [line for line in agent.log.read_text().splitlines() if "WARNING the process may open" in line]
    assert line.startswith("WARNING the process may open 96 files and uses")
    assert "so max_connections = 300 is reduced to" in line
    assert "LimitNOFILE=" in line
    assert "cannot accept" not in agent.log.read_text()


class FakeLoop:
    """Records what an acceptor asks of its loop."""

    def __init__(self) -> None:
        self.watched: set[Any] = set()
        self.delays: list[tuple[float, Callable[[], None]]] = []

    def add_reader(self, listener: Any, *_: Any) -> None:
        self.watched.add(listener)

    def remove_reader(self, listener: Any) -> None:
        self.watched.discard(listener)

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> Any:
        self.delays.append((delay_s, lambda: callback(*arguments)))
        return mock.Mock()


class FailingListener:
    """A listening socket whose `accept` fails."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.attempts = 0

    def setblocking(self, _: bool) -> None:  # noqa: FBT001 - as of a socket
        pass

    def accept(self) -> Any:
        self.attempts += 1
        raise OSError(self.number, os.strerror(self.number))


def accept_failing(number: int, *, has_room: bool) -> tuple[FakeLoop, FailingListener, list[str]]:
    loop, listener, calls = FakeLoop(), FailingListener(number), []

    def make_room() -> bool:
        calls.append("make room")
        return has_room

    acceptor = Acceptor(
        cast("Any", loop),
        [cast("Any", listener)],
        make_protocol=mock.Mock(),
        make_room=make_room,
        limited=LimitedLog(logging.getLogger("accepting")),
    )
    acceptor._accept(cast("Any", listener))
    return loop, listener, calls


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_resources_accepting_pauses_and_resumes(number: int, caplog: pytest.LogCaptureFixture) -> None:
    loop, listener, calls = accept_failing(number, has_room=False)
    assert calls == ["make room"]
    assert listener.attempts == 2  # the second one with the descriptor in reserve
    assert not loop.watched
    ((delay_s, resume),) = loop.delays
    assert delay_s == 1.0
    resume()
    assert loop.watched == {listener}
    assert os.strerror(number) in caplog.text
    loop, listener, _ = accept_failing(number, has_room=True)
    assert (listener.attempts, loop.delays[0][0]) == (1, 0.01)


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.EPROTO, errno.EPERM])
def test_an_error_of_a_new_connection_closes_no_other(number: int) -> None:
    loop, listener, calls = accept_failing(number, has_room=True)
    assert (calls, listener.attempts) == ([], 1)
    assert [delay_s for delay_s, _ in loop.delays] == [0.01]


@pytest.mark.parametrize(
    ("limits", "wanted", "expected", "raised"),
    [
        ((1024, 4096), 256, 256, None),
        ((100, 4096), 256, 256, 338),
        ((100, 200), 256, 118, 200),
        ((100, 100), 256, 18, None),
        ((60, 60), 256, 1, None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 256, 256, None),
        ((100, resource.RLIM_INFINITY), 256, 256, 338),
    ],
)
def test_the_number_of_connections_fits_the_limits(
    limits: tuple[int, int], wanted: int, expected: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to = []
    monkeypatch.setattr(descriptors, "_descriptors_in_use", lambda: 50)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: set_to.append(pair))
    assert descriptors.connection_limit(wanted) == expected
    assert [soft for soft, _ in set_to if soft != limits[0]] == ([] if raised is None else [raised])


def test_a_limit_that_may_not_be_raised_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(descriptors, "_descriptors_in_use", lambda: 50)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert descriptors.connection_limit(256) == 18

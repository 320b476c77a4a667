"""The endpoint on a Unix domain socket, beside TCP or instead of it."""

import json
import socket
import stat
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeexit.agent import Agent, AgentConfig, EndpointConfig
from edgeexit.agent.endpoint.listening import listen
from edgeexit.agent.endpoint.server import Endpoint
from edgeexit.bundle import Bundle
from edgeexit.errors import ConfigError
from tests.agent.endpoint.client import MODEL, Gate, Served, infer_request, send_request
from tests.agent.fleet import wait_for
from tests.bundles import INPUT, make_samples

ONE = infer_request(make_samples(1)[INPUT])


class LocalConnection(HTTPConnection):
    """HTTP over a Unix domain socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("any.name.example", timeout=20)  # the Host header does not matter here
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


def infer(path: Path) -> Any:
    connection = LocalConnection(path)
    connection.request("POST", f"{MODEL}/infer", json.dumps(ONE))
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    assert response.status == 200, content
    return content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "endpoint.sock"


def test_the_socket_serves_beside_tcp_and_is_removed_at_the_stop(
    bundle: Bundle, config: AgentConfig, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Agent(bundle, config) as agent:
        with Endpoint(agent, EndpointConfig(port=0, socket=path)) as endpoint:
            assert infer(path)["model_name"] == "tiny"
            assert send_request(endpoint.port, f"{MODEL}/infer", ONE).status == 200
            assert stat.S_IMODE(path.lstat().st_mode) == 0o660
            assert f"http://127.0.0.1:{endpoint.port} and socket '{path}'" in caplog.text
        assert not path.exists()


def test_the_socket_serves_instead_of_tcp(serve: Callable[..., Served], path: Path) -> None:
    served = serve(tcp=False, socket=path)
    assert infer(path)["model_name"] == "tiny"
    with pytest.raises(IndexError):
        _ = served.endpoint.port


def test_a_client_of_the_socket_that_closes_its_sending_side_gets_its_response(
    serve: Callable[..., Served], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(tcp=False, socket=path, inline_ms=0)
    gate = Gate(served, monkeypatch)
    waiting, gone = LocalConnection(path), LocalConnection(path)
    for client in (waiting, gone):
        client.request("POST", f"{MODEL}/infer", json.dumps(ONE))
    assert gate.reached.wait(20)
    wait_for(lambda: served.requests == 2, "both requests")
    waiting.sock.shutdown(socket.SHUT_WR)
    gone.close()
    wait_for(lambda: served.requests == 1, "the request of the client that has disconnected to be cancelled")
    gate.open()
    assert waiting.getresponse().status == 200
    waiting.close()


def test_the_file_that_a_killed_agent_left_is_replaced(serve: Callable[..., Served], path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    serve(socket=path)
    assert infer(path)["model_name"] == "tiny"


def test_another_file_at_the_path_is_not_touched(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is not a socket"):
        listen(EndpointConfig(port=0, socket=path))
    assert path.read_text() == "precious"
    path.unlink()
    target = path.with_name("target.sock")
    path.symlink_to(target)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(target))
        with pytest.raises(ConfigError, match="is not a socket"):
            listen(EndpointConfig(port=0, socket=path))
        assert target.exists()


def test_a_socket_that_another_process_uses_is_not_taken(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigError, match="another process listens on socket"):
            listen(EndpointConfig(port=0, socket=path))
        assert path.exists()


def test_a_file_that_replaced_the_socket_is_not_removed(path: Path) -> None:
    listeners = listen(EndpointConfig(tcp=False, socket=path))
    path.unlink()
    path.write_text("precious")
    listeners.close()
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "text"), [("missing/endpoint.sock", "No such file or directory"), ("x" * 120, "at most 107 bytes")]
)
def test_a_path_that_cannot_be_used_is_named(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"socket '.*{name}'.*{text}"):
        listen(EndpointConfig(port=0, socket=tmp_path / name))


def test_the_tcp_sockets_are_closed_if_the_path_cannot_be_used(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigError):
        listen(EndpointConfig(port=0, socket=tmp_path / "missing" / "endpoint.sock"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_relative_path_is_relative_to_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('fleet = "f"\n[endpoint]\ntcp = false\nsocket = "run/endpoint.sock"\n')
    assert AgentConfig.load(file).endpoint.socket == tmp_path / "run" / "endpoint.sock"


def test_without_tcp_the_socket_is_required(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('fleet = "f"\n[endpoint]\ntcp = false\n')
    with pytest.raises(ConfigError, match="line 3: tcp = false leaves nothing to listen on; set socket, too"):
        AgentConfig.load(file)
    with pytest.raises(ValueError, match="set socket, too"):
        msgspec.structs.replace(EndpointConfig(), tcp=False)

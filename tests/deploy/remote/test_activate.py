"""The decisions of the step `activate`: where a rollback leads, and whether an agent is healthy."""

import contextlib
import http.server
import json
import threading

import pytest

from edgeexit.deploy.remote.activate import rollback_release, start_agent
from edgeexit.deploy.remote.layout import set_current_release
from edgeexit.deploy.remote.service import AgentService, health_error


@contextlib.contextmanager
def serving(response):
    """Send these bytes in response to every request on a free port; yield a release with this endpoint."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(response)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = {"host": "127.0.0.1", "port": server.server_port}
        yield {"configuration": {"endpoint": endpoint}, "model": "tiny", "bundle": "d" * 64}
        server.shutdown()


def json_response(content):
    return b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(content).encode()


@pytest.mark.parametrize(
    ("healthy", "expected"),
    [({"1", "2", "3"}, "3"), ({"1", "2"}, "2"), ({"1"}, "1"), ({"4"}, None), (set(), None)],
)
def test_a_rollback_leads_to_the_newest_replaced_release_that_was_healthy(tmp_path, healthy, expected):
    for release, replaced in {"1": "2", "2": "1", "3": "2", "4": None}.items():  # 1 and 2 replaced each other
        folder = tmp_path / "releases" / release
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"replaces": replaced}))
        if release in healthy:
            (folder / "healthy").touch()
    set_current_release(tmp_path, "3")
    assert rollback_release(tmp_path, "4") == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"SSH-2.0-other\r\n", "returns no valid response"),
        (json_response([]), "serves bundle"),
        (json_response({"versions": 1}), "serves bundle"),
        (json_response({"versions": ["e" * 64]}), "serves bundle"),
        (b"HTTP/1.0 200 OK\r\n\r\n\xff", "returns no valid response"),
        (b"HTTP/1.0 503 Busy\r\n\r\n", "returns status 503"),
    ],
)
def test_any_other_response_of_the_endpoint_is_a_health_error(response, expected):
    with serving(response) as release:
        assert expected in health_error(release)


def test_another_agent_with_the_same_bundle_on_the_port_is_not_mistaken_for_the_new_one(tmp_path):
    program = tmp_path / "releases" / "0001-d" / "venv" / "bin" / "edgeexit"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    set_current_release(tmp_path, "0001-d")
    service = AgentService(tmp_path, "process", "edgeexit")
    with serving(json_response({"versions": ["d" * 64]})) as release:
        assert health_error(release) is None
        assert "is in use by another program" in start_agent(service, release, 5.0)
    assert service.pid() is None

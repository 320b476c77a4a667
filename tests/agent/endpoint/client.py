"""Plain HTTP to an endpoint, and a gate that holds its inference up."""

import http.client
import json
import threading
from typing import Any, NamedTuple

import pytest

from edgeexit.agent import Agent
from edgeexit.agent.endpoint.server import Endpoint
from tests.bundles import FEATURES, INPUT

MODEL = "/v2/models/tiny"


class Served(NamedTuple):
    """An agent and its endpoint."""

    agent: Agent
    endpoint: Endpoint

    @property
    def requests(self) -> int:
        """Number in flight."""
        return self.endpoint._service.admission.requests


class Answer(NamedTuple):
    status: int
    headers: Any
    body: Any
    """Decoded JSON."""


class Gate:
    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open, self.reached = threading.Event(), threading.Event()
        backend = served.agent._runner._backend
        begin = backend.begin

        def wait(*arguments: Any, **options: Any) -> Any:
            self.reached.set()
            self._open.wait(20)
            return begin(*arguments, **options)

        monkeypatch.setattr(backend, "begin", wait)

    def open(self) -> None:
        self._open.set()


def ask(
    port: int, path: str, body: bytes | dict[str, Any] | None = None, *, method: str = "", **headers: str
) -> Answer:
    """Ask over a connection of its own; underscores in the headers' names stand for hyphens."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if content is None else "POST"), path, content, named)
        response = connection.getresponse()
        return Answer(response.status, response.headers, json.loads(response.read()))
    finally:
        connection.close()


def question(rows: Any, **changes: Any) -> dict[str, Any]:
    """Return the JSON request for samples [B, 8]."""
    tensor = {"name": INPUT, "shape": [len(rows), FEATURES], "datatype": "FP32", "data": rows.ravel().tolist()}
    return {"inputs": [tensor], **changes}

"""Helpers for tests of the endpoint: send HTTP requests, and block inference."""

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
        """Number of complete requests in flight."""
        return self.endpoint._admission.requests

    @property
    def held_bytes(self) -> int:
        """Bytes of all bodies that are held."""
        return self.endpoint._admission.bytes


class Response(NamedTuple):
    status: int
    headers: Any
    body: Any
    """Decoded JSON."""


class Gate:
    """Blocks the inference of an agent in the scheduler's thread until it is opened; needs `inline_ms=0`."""

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


def send_request(
    port: int, path: str, body: bytes | dict[str, Any] | None = None, *, method: str = "", **headers: str
) -> Response:
    """Send one request over a new connection; underscores in header names stand for hyphens."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if content is None else "POST"), path, content, fields)
        response = connection.getresponse()
        return Response(response.status, response.headers, json.loads(response.read()))
    finally:
        connection.close()


def infer_request(rows: Any, **changes: Any) -> dict[str, Any]:
    """Return the JSON document of an inference request for samples [B, 8]."""
    tensor = {"name": INPUT, "shape": [len(rows), FEATURES], "datatype": "FP32", "data": rows.ravel().tolist()}
    return {"inputs": [tensor], **changes}

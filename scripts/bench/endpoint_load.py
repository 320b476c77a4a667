"""Loads a server with a number of clients, each of which sends its next request when it has received a response."""

import json
import selectors
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from endpoint_servers import PATH, Server

_WRK_SCRIPT: Final = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("BODY", "rb"); wrk.body = file:read("*a"); file:close()
function done(summary, latency, requests)
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  print(string.format('JSON {"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, "failed": %d}', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), errors + summary.errors.status))
end
"""
_CHUNK: Final = 1 << 16
_HEADERS_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


class Load(NamedTuple):
    """The result of loading a server for some seconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


class FailedRequestsError(Exception):
    """A server did not respond with 200 to every request."""


def wrk(server: Server, body: bytes, *, clients: int, seconds: float, cpus: str | None) -> Load:
    """Load a TCP server with `wrk` in one thread. Raises FailedRequestsError."""
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder, "body"), Path(folder, "post.lua")
        file.write_bytes(body)
        script.write_text(_WRK_SCRIPT.replace("BODY", str(file)), encoding="utf-8")
        command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
        if cpus is not None:
            command = ["taskset", "--cpu-list", cpus, *command]
        done = subprocess.run(  # noqa: S603 - our own command
            [*command, f"http://127.0.0.1:{server.address}{PATH}"], check=True, stdout=subprocess.PIPE, text=True
        )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("JSON ")]
    result = json.loads(line.removeprefix("JSON "))
    if result["failed"]:
        raise FailedRequestsError(f"{server.name}: {result['failed']} of {result['requests']} requests failed")
    return Load(1e6 * result["requests"] / result["us"], result["p50_us"] / 1e3, result["p99_us"] / 1e3)


def sockets(server: Server, body: bytes, *, clients: int, seconds: float) -> Load:
    """Load a server of either kind from one thread of this process. Raises FailedRequestsError."""
    request = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    durations_ns: list[int] = []
    sent_ns: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            connection = server.connect()
            selector.register(connection, selectors.EVENT_READ)
            sent_ns[connection] = time.perf_counter_ns()
            connection.sendall(request)
        started_ns = time.perf_counter_ns()
        end_ns = started_ns + int(seconds * 1e9)
        while (now_ns := time.perf_counter_ns()) < end_ns:
            for key, _ in selector.select(1.0):
                connection = key.fileobj  # type: ignore[assignment]  # sockets are registered
                _receive(server, connection)
                now_ns = time.perf_counter_ns()
                durations_ns.append(now_ns - sent_ns[connection])
                sent_ns[connection] = now_ns
                connection.sendall(request)
        for connection in sent_ns:
            connection.close()
    p50_ms, p99_ms = np.percentile(durations_ns, (50, 99)) / 1e6
    return Load(1e9 * len(durations_ns) / (now_ns - started_ns), float(p50_ms), float(p99_ms))


def _receive(server: Server, connection: socket.socket) -> None:
    """Receive one response. Raises FailedRequestsError unless its status is 200."""
    received = connection.recv(_CHUNK)
    while (end := received.find(_HEADERS_END)) < 0:
        received += _more(server, connection)
    head = received[:end].lower()
    if head[9:12] != b"200":
        raise FailedRequestsError(f"{server.name}: {received[:300].decode(errors='replace')}")
    start = head.index(_LENGTH) + len(_LENGTH)
    missing = end + len(_HEADERS_END) + int(head[start:].split(b"\r\n", 1)[0]) - len(received)
    while missing > 0:
        missing -= len(_more(server, connection))


def _more(server: Server, connection: socket.socket) -> bytes:
    chunk = connection.recv(_CHUNK)
    if not chunk:
        raise FailedRequestsError(f"{server.name} closed a connection")
    return chunk

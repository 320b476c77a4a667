"""The endpoint with many, slow, malformed and disconnecting clients: it keeps serving the others."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgeexit.agent import Agent, AgentConfig, EndpointConfig
from edgeexit.agent.endpoint import connections
from edgeexit.agent.endpoint.listening import listen
from edgeexit.agent.endpoint.server import Endpoint
from edgeexit.bundle import Bundle
from edgeexit.errors import ConfigError
from tests.agent.endpoint.client import MODEL, Gate, Served, infer_request, send_request
from tests.agent.fleet import wait_for
from tests.bundles import INPUT, make_samples

INFER = f"{MODEL}/infer"
ONE = infer_request(make_samples(1)[INPUT])

Serve = Callable[..., Served]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def request_head(length: int | str, *more: str) -> bytes:
    lines = [f"POST {INFER} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def is_closed(client: socket.socket) -> bool:
    """Read until the server closes the connection; a timeout raises."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_a_hundred_concurrent_clients_each_get_their_own_outputs(served: Served) -> None:
    samples = make_samples(300)[INPUT]
    expected = served.agent.infer({INPUT: samples}).outputs
    begin = threading.Barrier(100)

    def work(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", served.endpoint.port, timeout=60)
        begin.wait(60)
        for turn in range(3):
            row = 3 * number + turn
            connection.request("POST", INFER, json.dumps(infer_request(samples[row : row + 1])))
            response = json.loads(connection.getresponse().read())
            (found,) = (output["data"] for output in response["outputs"] if output["name"] == "outputs")
            np.testing.assert_allclose(found, expected[row], rtol=1e-4, atol=1e-5)
        connection.close()

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(work, range(100)))
    wait_for(lambda: served.requests == 0, "no request in flight")
    assert served.agent.totals().exited == (0, 0, 600)


def test_clients_that_send_nothing_or_too_slowly_are_disconnected_and_do_not_block_others(serve: Serve) -> None:
    served = serve(idle_timeout_s=0.5, header_timeout_s=0.5, transfer_timeout_s=0.5)
    port = served.endpoint.port
    with contextlib.ExitStack() as resources:
        silent = [resources.enter_context(connect(port)) for _ in range(20)]
        halfway = [resources.enter_context(connect(port)) for _ in range(20)]
        stalled = [resources.enter_context(connect(port)) for _ in range(20)]
        for client in halfway:
            client.sendall(b"POST /v2 HTTP/1.1\r\nHost: he")
        for client in stalled:
            client.sendall(request_head(1000) + b'{"inputs"')
        dripping = resources.enter_context(connect(port))
        dripping.sendall(b"GET /v2 HTTP/1.1\r\n")
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    dripping.sendall(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        assert send_request(port, INFER, ONE).status == 200
        assert all(is_closed(client) for client in (*silent, *halfway, *stalled, dripping))
        stop.set()
        thread.join()
    wait_for(lambda: served.requests == 0, "the stalled requests to be released")
    assert send_request(port, INFER, ONE).status == 200


def large_request() -> bytes:
    """Return a request whose response does not fit into the buffers of a socket."""
    rows = make_samples(40_000)[INPUT]
    tensor = {"name": INPUT, "shape": list(rows.shape), "datatype": "FP32"}
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": rows.nbytes}}]}).encode()
    header_field = f"Inference-Header-Content-Length: {len(header)}"
    return request_head(len(header) + rows.nbytes, header_field) + header + rows.tobytes()


def test_a_client_that_does_not_read_its_response_is_disconnected(serve: Serve) -> None:
    served = serve(transfer_timeout_s=1.0, agent={"max_waiting": 100_000})
    with connect(served.endpoint.port) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(large_request())
        wait_for(lambda: served.requests == 1, "the request")
        wait_for(lambda: served.agent.completed_batches == 1, "the inference", timeout_s=30)
        wait_for(lambda: served.requests == 0, "the request to be released", timeout_s=30)
        wait_for(lambda: not served.endpoint.connections, "its connection to be closed")
    assert send_request(served.endpoint.port, INFER, ONE).status == 200


def test_the_responses_that_nobody_reads_are_bounded_together(serve: Serve, monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "_MIN_AGE_S", 0.0)
    served = serve(max_body_bytes=1_500_000, agent={"max_waiting": 100_000})
    with contextlib.ExitStack() as resources:
        for count in range(1, 6):
            client = resources.enter_context(connect(served.endpoint.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(large_request())
            wait_for(lambda count=count: served.agent.completed_batches == count, "the inference", timeout_s=30)
        wait_for(lambda: served.requests <= 2, "the oldest responses to be dropped", timeout_s=30)
        assert send_request(served.endpoint.port, INFER, ONE).status == 200


@pytest.mark.parametrize("times", [2, 1000, 10**13])
def test_a_body_that_is_too_large_is_refused_with_a_reason(serve: Serve, times: int) -> None:
    served = serve(max_body_bytes=2048)
    with connect(served.endpoint.port) as client:
        client.sendall(request_head(2048 * times))
        if times == 2:
            client.sendall(b"x" * 2048 * times)
        response = client.recv(65536)
    assert response.startswith(b"HTTP/1.1 413")
    assert b'{"error":"a body may have at most 2048 bytes' in response
    assert send_request(served.endpoint.port, INFER, ONE).status == 200


def test_a_chunked_body_that_exceeds_the_limit_is_refused_with_a_reason(serve: Serve) -> None:
    served = serve(max_body_bytes=2048)
    connection = http.client.HTTPConnection("127.0.0.1", served.endpoint.port, timeout=20)
    connection.request("POST", INFER, (b"x" * 1000 for _ in range(10)), encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, "2048" in json.loads(response.read())["error"]) == (413, True)
    connection.request("POST", INFER, iter([json.dumps(ONE).encode()]), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize(
    "content",
    [
        b"GARBAGE\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(5000)) + b"\r\n",
        request_head("abc"),
        request_head(-5),
        request_head(10, "Content-Length: 20"),
        request_head(10, "Transfer-Encoding: chunked"),
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2/models/%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_malformed_http_closes_only_that_connection(
    served: Served, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(served.endpoint.port) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(content)
        assert is_closed(client)
    wait_for(lambda: served.requests == 0, "no request in flight")
    assert send_request(served.endpoint.port, INFER, ONE).status == 200
    assert "Traceback" not in caplog.text


def test_requests_of_clients_that_disconnect_are_released(serve: Serve, monkeypatch: Any) -> None:
    served = serve(inline_ms=0)
    gate = Gate(served, monkeypatch)
    body = json.dumps(ONE).encode()
    for _ in range(10):
        with connect(served.endpoint.port) as client:  # disconnects in the middle of the body
            client.sendall(request_head(len(body)) + body[:20])
    with contextlib.ExitStack() as resources:  # disconnect before the response, the first one during its inference
        clients = [resources.enter_context(connect(served.endpoint.port)) for _ in range(10)]
        clients[0].sendall(request_head(len(body)) + body)
        assert gate.reached.wait(10)
        for client in clients[1:]:
            client.sendall(request_head(len(body)) + body)
        wait_for(lambda: served.requests == 10, "ten requests")
    wait_for(lambda: served.requests == 0, "nothing left in flight")
    gate.open()
    assert send_request(served.endpoint.port, INFER, ONE).status == 200
    assert served.agent.completed_batches == 2, "inferences that had not started are cancelled"


def test_requests_beyond_max_requests_get_a_503(serve: Serve, monkeypatch: Any) -> None:
    served = serve(max_requests=2, inline_ms=0)
    gate = Gate(served, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        early = [pool.submit(send_request, served.endpoint.port, INFER, ONE) for _ in range(2)]
        wait_for(lambda: served.requests == 2, "two requests in flight")
        response = send_request(served.endpoint.port, INFER, ONE)
        assert response.status == 503
        assert "requests in flight: 2" in response.body["error"]
        assert response.headers["Retry-After"] == "1"
        assert send_request(served.endpoint.port, "/v2/health/live").status == 200
        gate.open()
        assert [one.result().status for one in early] == [200, 200]
    assert send_request(served.endpoint.port, INFER, ONE).status == 200


def test_samples_beyond_max_waiting_get_a_503(serve: Serve, monkeypatch: Any) -> None:
    served = serve(inline_ms=0, agent={"max_waiting": 1})
    gate = Gate(served, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(send_request, served.endpoint.port, INFER, ONE)
        assert gate.reached.wait(10)
        response = send_request(served.endpoint.port, INFER, ONE)
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert "samples in progress: 1;" in response.body["error"]
        gate.open()
        assert early.result().status == 200


def test_clients_that_announce_large_bodies_and_stay_silent_shut_nobody_out(serve: Serve) -> None:
    served = serve(max_body_bytes=100_000)
    with contextlib.ExitStack() as resources:
        for _ in range(20):
            resources.enter_context(connect(served.endpoint.port)).sendall(request_head(100_000))
        wait_for(lambda: served.endpoint.connections == 20, "twenty announced bodies")
        assert send_request(served.endpoint.port, INFER, ONE).status == 200
        wait_for(lambda: served.held_bytes == 0, "only the bytes that arrived to be counted")


def test_the_bodies_in_flight_are_bounded_together(serve: Serve) -> None:
    served = serve(max_body_bytes=10_000)
    with contextlib.ExitStack() as resources:
        for _ in range(4):
            resources.enter_context(connect(served.endpoint.port)).sendall(request_head(10_000) + b"x" * 9_990)
        wait_for(lambda: served.held_bytes == 4 * 9_990, "four bodies in flight")
        response = send_request(served.endpoint.port, INFER, ONE)
        assert response.status == 503
        assert "the limit of 40000 bytes" in response.body["error"]
    wait_for(lambda: served.held_bytes == 0, "nothing left in flight")
    assert send_request(served.endpoint.port, INFER, ONE).status == 200


def test_a_body_that_arrives_slowly_makes_room_for_others(serve: Serve) -> None:
    served = serve(max_body_bytes=10_000)
    served.endpoint._admission._min_age_s = 0.0
    with contextlib.ExitStack() as resources:
        slow = [resources.enter_context(connect(served.endpoint.port)) for _ in range(4)]
        for client in slow:
            client.sendall(request_head(10_000) + b"x" * 9_990)
        wait_for(lambda: served.held_bytes == 4 * 9_990, "four bodies in flight")
        assert send_request(served.endpoint.port, INFER, ONE).status == 200
        wait_for(lambda: served.held_bytes == 3 * 9_990, "the slow body to be dropped")
        assert b"the body arrived too slowly" in read_all(slow[0])


def read_all(client: socket.socket) -> bytes:
    """Return what the server sends until it closes its side."""
    content = b""
    while part := client.recv(65536):
        content += part
    return content


def test_the_oldest_idle_connection_makes_room_for_a_new_one(serve: Serve) -> None:
    served = serve(max_connections=3)
    with contextlib.ExitStack() as resources:
        idle = []
        for count in range(1, 4):
            idle.append(resources.enter_context(connect(served.endpoint.port)))
            wait_for(lambda count=count: served.endpoint.connections == count, "another connection")
        assert send_request(served.endpoint.port, "/v2/health/live").status == 200
        assert is_closed(idle[0])
        idle[1].sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[1].recv(65536).startswith(b"HTTP/1.1 200")


def test_connections_with_a_request_in_flight_are_not_closed_for_new_ones(serve: Serve, monkeypatch: Any) -> None:
    served = serve(max_connections=2, inline_ms=0)
    gate = Gate(served, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        early = [pool.submit(send_request, served.endpoint.port, INFER, ONE) for _ in range(2)]
        wait_for(lambda: served.requests == 2, "two requests in flight")
        with connect(served.endpoint.port) as client:
            response = client.recv(65536)
        assert response.startswith(b"HTTP/1.1 503")
        assert b'{"error":"too many connections are open' in response
        gate.open()
        assert [one.result().status for one in early] == [200, 200]


def test_refused_connections_do_not_let_later_ones_in(serve: Serve, monkeypatch: Any) -> None:
    served = serve(max_connections=2, inline_ms=0)
    gate = Gate(served, monkeypatch)
    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as resources:
        early = [pool.submit(send_request, served.endpoint.port, INFER, ONE) for _ in range(2)]
        wait_for(lambda: served.requests == 2, "two requests in flight")
        for _ in range(6):  # each of them stays open until its client has read the response, or for 2 s
            client = resources.enter_context(connect(served.endpoint.port))
            assert client.recv(12) == b"HTTP/1.1 503"
        assert served.endpoint.connections <= 3
        gate.open()
        assert [one.result().status for one in early] == [200, 200]


def test_stopping_finishes_the_requests_in_flight_and_refuses_new_ones(
    bundle: Bundle, config: AgentConfig, monkeypatch: Any
) -> None:
    with Agent(bundle, config) as agent, ThreadPoolExecutor(2) as pool:
        endpoint = Endpoint(agent, EndpointConfig(port=0, inline_ms=0))
        endpoint.__enter__()
        port = endpoint.port
        gate = Gate(Served(agent, endpoint), monkeypatch)
        with (
            connect(port) as idle,
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as open_,
        ):
            open_.request("GET", "/v2/health/live")
            open_.getresponse().read()
            early = pool.submit(send_request, port, INFER, ONE)
            assert gate.reached.wait(10)
            stopping = pool.submit(endpoint.__exit__, None, None, None)
            wait_for(lambda: refuses(port), "new connections to be refused")
            assert not early.done()
            assert not stopping.done()
            open_.request("POST", INFER, json.dumps(ONE))
            refused = open_.getresponse()
            assert refused.status == 503
            assert "the agent is stopping" in json.loads(refused.read())["error"]
            gate.open()
            assert early.result().status == 200
            stopping.result(20)
            assert is_closed(idle)


def refuses(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionError:
        return True
    return False


def test_a_port_in_use_is_named(bundle: Bundle, config: AgentConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, Agent(bundle, config) as agent:
        port = other.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"port {port} on 127.0.0.1 is not available .*\[endpoint\]"),
            Endpoint(agent, EndpointConfig(port=port)),
        ):
            pass


@pytest.mark.parametrize(
    ("host", "warned"),
    [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)],  # noqa: S104 - tests the warning
)
def test_listening_on_the_network_logs_a_warning(
    serve: Serve, host: str, *, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(host=host)
    assert send_request(served.endpoint.port, "/v2/health/ready").status == 200
    assert ("without authentication" in caplog.text) == warned


def test_the_advice_for_a_foreign_address_differs_from_that_for_a_port_in_use() -> None:
    with pytest.raises(ConfigError, match=r"; set host to an address of this device under \[endpoint\]"):
        listen(EndpointConfig(host="192.0.2.1", port=0))


def test_an_unknown_host_is_named(bundle: Bundle, config: AgentConfig) -> None:
    with (
        Agent(bundle, config) as agent,
        pytest.raises(ConfigError, match=r"host 'no\.such\.host\.invalid' does not resolve"),
        Endpoint(agent, EndpointConfig(host="no.such.host.invalid")),
    ):
        pass

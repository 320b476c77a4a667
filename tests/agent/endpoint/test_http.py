"""HTTP over raw sockets: what is malformed gets a JSON error with the right status, and nothing is smuggled."""

import contextlib
import json
import re
import socket
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.agent.endpoint.client import MODEL, Gate, Served, infer_request
from tests.agent.fleet import wait_for
from tests.bundles import INPUT, make_samples

Serve = Callable[..., Served]

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = f"POST {MODEL}/infer HTTP/1.1\r\nHost: localhost\r\n".encode()
BODY = json.dumps(infer_request(make_samples(1)[INPUT])).encode()
INFER = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.endpoint.port), timeout=20)


def exchange(served: Served, content: bytes) -> list[tuple[int, bytes, bytes]]:
    """Send bytes, read until the server closes its side, and return status, head and body of each response."""
    with connect(served) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(content)
        received = b""
        while part := client.recv(65536):
            received += part
    return split(received)


def split(received: bytes) -> list[tuple[int, bytes, bytes]]:
    responses = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1]) if b"Content-Length" in head else 0
        responses.append((int(head.split()[1]), head, rest[:length]))
        received = rest[length:]
    return responses


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"GARBAGE\r\n\r\n", 501, "method"),
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", 501, "method"),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "Invalid HTTP version"),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505, "use HTTP/1.1"),
        (b"GET /\r\n\r\n", 505, "use HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not valid HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 501, "method"),
        (b"GET /v2 HTTP/1.1\nHost: localhost\n\n", 400, "not valid HTTP"),
        (b"GET /v2 HTTP/1.1\r\nHost : localhost\r\n\r\n", 400, "Invalid header token"),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400, "not valid HTTP"),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nA: b\x00\r\n\r\n", 400, "Invalid header value"),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 400, "the Host header is missing"),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400, "host is given twice"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, "at most 16384 bytes"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 4000 + b"\r\n", 431, "at most 16384 bytes"),
        (POST + b"Content-Length: abc\r\n\r\n", 400, "Invalid character in Content-Length"),
        (POST + b"Content-Length: -5\r\n\r\n", 400, "Invalid character in Content-Length"),
        (POST + b"Content-Length: +5\r\n\r\n12345", 400, "Invalid character in Content-Length"),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 400, "Content-Length overflow"),
        (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, "Duplicate Content-Length"),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "Duplicate Content-Length"),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400, "Transfer-Encoding"),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", 400, "Content-Length"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "'gzip, chunked' is not supported"),
        (
            POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "Invalid `Transfer-Encoding`",
        ),
        (POST + b"Transfer-Encoding: identity\r\n\r\n{}", 501, "'identity' is not supported"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "Invalid character in chunk size"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400, "not valid HTTP"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400, "Chunk size overflow"),
        (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "cannot be used"),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000,
            400,
            "chunks of the body are too small",
        ),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
            431,
            "trailers of the body are too large",
        ),
        (POST + b"Expect: tea\r\nContent-Length: 2\r\n\r\n{}", 417, "'tea' is not supported"),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 501, "upgrades"),
        (b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n", 501, "upgrades"),
    ],
)
def test_what_is_not_valid_gets_a_json_error_and_the_connection_is_closed(
    served: Served, content: bytes, status: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    ((found, head, body),) = exchange(served, content)
    assert found == status
    assert text in json.loads(body)["error"]
    assert b"Connection: close" in head
    assert b"Content-Type: application/json" in head
    assert "Traceback" not in caplog.text
    assert served.requests == 0


def test_a_second_request_in_the_body_of_another_is_not_run(served: Served) -> None:
    for head in (
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 4\r\n\r\n",
        b"Transfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\n",
        b"X: y\nContent-Length: 4\r\n\r\n",
        b"Content-Length: 4\r\r\n\r\n",
    ):
        responses = exchange(served, POST + head + LIVE)
        assert [status for status, _, _ in responses] == [400], head


@pytest.mark.parametrize("first", [LIVE, INFER])
def test_pipelined_requests_are_refused_after_the_first_response(served: Served, first: bytes) -> None:
    responses = exchange(served, first + LIVE * 3)
    assert [status for status, _, _ in responses] == [200, 400]
    assert "cannot be pipelined" in json.loads(responses[1][2])["error"]
    assert b"Connection: close" in responses[1][1]


def test_what_follows_a_request_that_closes_the_connection_is_dropped(served: Served) -> None:
    responses = exchange(served, LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + LIVE)
    assert [status for status, _, _ in responses] == [200]


def test_a_request_may_arrive_byte_by_byte(served: Served) -> None:
    with connect(served) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(INFER)):
            client.sendall(INFER[index : index + 1])
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        client.sendall(b"\r\n" + LIVE)  # a line break after a body is not a request
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_http_1_0_closes_unless_keep_alive_is_asked_for(served: Served) -> None:
    old = LIVE.replace(b"1.1", b"1.0").replace(b"Host: localhost\r\n", b"")
    ((status, head, _),) = exchange(served, old)
    assert (status, b"Connection: close" in head) == (200, True)
    with connect(served) as client:
        for _ in range(2):
            client.sendall(old.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
            assert b"Connection: keep-alive" in client.recv(65536)


def test_a_client_that_waits_for_continue_is_asked_for_its_body_or_refused(serve: Serve) -> None:
    served = serve(max_body_bytes=2048)
    with connect(served) as client:
        client.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    ((status, _, _),) = exchange(served, POST + b"Expect: 100-continue\r\nContent-Length: 4000\r\n\r\n")
    assert status == 413


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/health/live", "/v2/health/ready", MODEL, f"{MODEL}/ready", f"{MODEL}/config"],
)
def test_head_gets_the_headers_of_get_and_no_body(served: Served, path: str) -> None:
    with connect(served) as client:
        found = []
        for method in ("GET", "HEAD"):
            client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = client.recv(65536).partition(b"\r\n\r\n")
            found.append((re.sub(rb"Date: .*", b"", head), bool(body)))
        assert found[0][0] == found[1][0]
        assert [has_body for _, has_body in found] == [True, False]


def test_head_is_not_a_method_of_a_call_that_needs_a_body(served: Served) -> None:
    with connect(served) as client:
        client.sendall(POST.replace(b"POST", b"HEAD") + b"\r\n")
        response = client.recv(65536)
        assert response.startswith(b"HTTP/1.1 405")
        assert b"Allow: POST\r\n" in response
        assert response.endswith(b"\r\n\r\n")
        client.sendall(LIVE)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.mark.parametrize(
    "content",
    [
        LIVE[:-2] + OFFER + b"\r\n",
        POST + OFFER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
        POST + OFFER + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(BODY), BODY),
    ],
    ids=["no body", "length", "chunked"],
)
@pytest.mark.parametrize("step", [7, 10_000])
def test_an_offer_of_http_2_gets_a_response_in_http_1_1(served: Served, content: bytes, step: int) -> None:
    with connect(served) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(content), step):
            client.sendall(content[start : start + step])
        client.sendall(LIVE)
        received = b""
        while part := client.recv(65536):
            received += part
    ((status, head, _),) = split(received)
    assert (status, b"Connection: close" in head) == (200, True)


def test_what_follows_an_offer_of_http_2_is_not_added_to_its_body(served: Served) -> None:
    offer = POST + OFFER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    for rest in (INFER, offer, LIVE, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"x"):
        assert [status for status, _, _ in exchange(served, offer + rest)] == [200], rest


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000, 400),
        (b"Content-Length: 99999999999\r\n\r\n", 413),
        (b"Content-Length: 2\r\n\r\n{}", 400),
    ],
)
def test_the_limits_hold_for_a_request_that_offers_http_2(served: Served, rest: bytes, status: int) -> None:
    responses = exchange(served, POST + OFFER + rest)
    assert [found for found, _, _ in responses] == [status]
    assert served.requests == 0


@pytest.mark.parametrize("method", [b"OPTIONS", b"PUT", b"PATCH", b"TRACE"])
def test_other_methods_get_a_405_that_names_the_right_ones(served: Served, method: bytes) -> None:
    with connect(served) as client:
        client.sendall(LIVE.replace(b"GET", method))
        response = client.recv(65536)
        assert response.startswith(b"HTTP/1.1 405")
        assert b"Allow: GET, HEAD\r\n" in response


@pytest.mark.parametrize("content", [LIVE, INFER], ids=["health", "inference"])
@pytest.mark.parametrize("inline_ms", [0, 1000])
def test_a_client_that_closes_its_sending_side_gets_its_response(serve: Serve, content: bytes, inline_ms: int) -> None:
    served = serve(inline_ms=inline_ms)
    with connect(served) as client:
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(65536):
            received += part
    ((status, _, _),) = split(received)
    assert status == 200
    wait_for(lambda: not served.endpoint.connections, "the connection to be closed")


def test_a_client_that_closes_its_sending_side_during_a_long_inference_gets_its_response(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(inline_ms=0)
    gate = Gate(served, monkeypatch)
    with connect(served) as client:
        client.sendall(INFER)
        assert gate.reached.wait(20)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"  # shows whether the client still listens
        gate.open()
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert client.recv(65536) == b""
    assert served.requests == 0


@pytest.mark.parametrize("content", [LIVE[:20], INFER[:-10], POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\na"])
def test_a_request_that_ends_before_it_is_complete_gets_a_400(served: Served, content: bytes) -> None:
    with connect(served) as client:
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(65536):
            received += part
    ((status, _, body),) = split(received)
    assert (status, json.loads(body)["error"]) == (400, "the request ended before it was complete")
    wait_for(lambda: not served.endpoint.connections, "the connection to be closed")


def test_a_target_with_scheme_and_host_leads_to_the_same_call(served: Served) -> None:
    for target, status in (
        (b"http://localhost/v2", b"200"),
        (b"HTTP://127.0.0.1:8080/v2?x=1", b"200"),
        (b"http://localhost/v3", b"404"),
        (b"http://localhost", b"404"),
    ):
        with connect(served) as client:
            client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65536).split()[1] == status, target


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://evil.example/v2", b"localhost", 421),
        (b"http://localhost/v2", b"evil.example", 200),  # the host of the target counts (RFC 9112)
        (b"http://evil.example@localhost/v2", b"localhost", 421),
        (b"http:///v2", b"localhost", 421),
        (b"ftp://localhost/v2", b"localhost", 404),
        (b"//evil.example/v2", b"localhost", 404),
    ],
)
def test_the_host_of_an_absolute_target_is_checked(served: Served, target: bytes, host: bytes, status: int) -> None:
    with connect(served) as client:
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert int(client.recv(65536).split()[1]) == status


def test_an_absolute_target_does_not_replace_a_missing_host_header(served: Served) -> None:
    ((status, _, body),) = exchange(served, b"GET http://localhost/v2 HTTP/1.1\r\n\r\n")
    assert (status, json.loads(body)["error"]) == (400, "the Host header is missing")


@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_the_case_of_header_names_does_not_matter(served: Served, spelling: Callable[[str], str]) -> None:
    head = "".join(
        f"{spelling(name)}: {value}\r\n"
        for name, value in (("host", "localhost"), ("content-type", "application/json"), ("content-length", len(BODY)))
    )
    with connect(served) as client:
        client.sendall(f"POST {MODEL}/infer HTTP/1.1\r\n{head}\r\n".encode() + BODY)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("path", [f"{MODEL}/", f"{MODEL}/infer/", f"/{MODEL}", MODEL.replace("/tiny", "//tiny")])
def test_a_slash_too_many_is_another_path_as_in_triton(served: Served, path: str) -> None:
    with connect(served) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 404")


def test_queries_and_escapes_lead_to_the_same_call(served: Served) -> None:
    for path in (b"/v2?x=1", b"/v2/", b"/%76%32", f"{MODEL}?".encode(), b"/v2/models/t%69ny/ready"):
        with connect(served) as client:
            client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK"), path


def test_headers_that_stay_incomplete_get_a_408(serve: Serve) -> None:
    served = serve(header_timeout_s=0.1, transfer_timeout_s=0.2)
    for content, text in ((LIVE[:20], "headers"), (INFER[:-10], "body")):
        ((status, _, body),) = exchange(served, content)
        assert (status, f"the {text} of the request did not arrive in time" in json.loads(body)["error"]) == (408, True)


pieces = st.sampled_from(
    [
        LIVE, INFER, POST, BODY, b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"GET ", b"HTTP/1.1",
        b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\nabcde\r\n", b"0\r\n\r\n",
        b"Host: localhost\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n",
        b"\xff\xfe", b"A: " + b"b" * 9000 + b"\r\n",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces | st.binary(max_size=8), max_size=8))
def test_arbitrary_bytes_get_responses_or_errors_and_nothing_is_left(served: Served, parts: list[bytes]) -> None:
    with connect(served) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"".join(parts))
            client.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                received += part
    for status, _, body in split(received):
        assert status in {100, 200, 400, 404, 405, 408, 413, 417, 431, 501, 505}
        assert status == 100 or isinstance(json.loads(body), dict)
    wait_for(lambda: not served.endpoint.connections, "the connection to be closed")
    assert (served.requests, served.held_bytes) == (0, 0)

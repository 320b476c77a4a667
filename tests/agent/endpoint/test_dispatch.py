"""Which inferences run in the endpoint's thread, and that their results do not depend on it."""

import json
import socket
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.agent.endpoint import infer_call
from edgeexit.agent.endpoint.dispatch import InlineRule
from tests.agent.endpoint.client import MODEL, Served, infer_request, send_request
from tests.agent.fleet import wait_for
from tests.bundles import INPUT, make_samples

INFER = f"{MODEL}/infer"
SAMPLES = make_samples(40)[INPUT]

Serve = Callable[..., Served]


def threads_of_stages(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of the thread of each batch that begins."""
    names: list[str] = []
    backend = served.agent._runner._backend
    begin = backend.begin

    def record(*arguments: Any, **options: Any) -> Any:
        names.append(threading.current_thread().name)
        return begin(*arguments, **options)

    monkeypatch.setattr(backend, "begin", record)
    return names


@pytest.mark.parametrize(("inline_ms", "thread"), [(1000.0, "agent-endpoint"), (0.0, "stage-scheduler")])
def test_results_do_not_depend_on_the_thread(
    serve: Serve, inline_ms: float, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(inline_ms=inline_ms)
    expected = served.agent.infer({INPUT: SAMPLES})
    names = threads_of_stages(served, monkeypatch)
    for rows in (slice(0, 1), slice(1, 4)):
        response = send_request(served.endpoint.port, INFER, infer_request(SAMPLES[rows]))
        found = {output["name"]: output["data"] for output in response.body["outputs"]}
        assert found["exits"] == expected.exits[rows].tolist()
        np.testing.assert_allclose(found["outputs"], expected.outputs[rows].ravel(), rtol=1e-5)
    assert names == [thread, thread]
    assert served.agent.totals().exited[2] == len(SAMPLES) + 4


def test_the_scheduler_runs_every_inference_if_samples_may_be_delayed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(inline_ms=1000.0, agent={"max_delay_ms": 1.0})
    names = threads_of_stages(served, monkeypatch)
    assert send_request(served.endpoint.port, INFER, infer_request(SAMPLES[:1])).status == 200
    assert names == ["stage-scheduler"]


def test_requests_that_arrive_together_run_as_one_batch_and_an_invalid_one_fails_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(inline_ms=1000.0)
    expected = served.agent.infer({INPUT: SAMPLES}).outputs
    names = threads_of_stages(served, monkeypatch)
    loop = served.endpoint._serving.result()
    blocked, resume = threading.Event(), threading.Event()

    def send(row: int) -> Any:
        rows = SAMPLES[row : row + 1] if row != 3 else np.full((1, 8), np.inf, dtype=np.float32)
        header = {"name": INPUT, "shape": [1, 8], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
        head = json.dumps({"inputs": [header]}).encode()
        return send_request(
            served.endpoint.port, INFER, head + rows.tobytes(), Inference_Header_Content_Length=str(len(head))
        )

    loop.call_soon_threadsafe(lambda: (blocked.set(), resume.wait(20)))
    assert blocked.wait(20)
    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(send, row) for row in range(8)]
        wait_for(lambda: waiting_bytes(served) == 8, "eight requests in the sockets")
        resume.set()
        responses = [one.result() for one in pending]
    assert [response.status for response in responses] == [200, 200, 200, 400, 200, 200, 200, 200]
    assert "infinity" in responses[3].body["error"]
    for row in (0, 1, 2, 4, 5, 6, 7):
        outputs = {output["name"]: output["data"] for output in responses[row].body["outputs"]}
        np.testing.assert_allclose(outputs["outputs"], expected[row], rtol=1e-5)
    assert len(names) < 7
    assert set(names) == {"agent-endpoint"}


def waiting_bytes(served: Served) -> int:
    """Return the number of connections to the endpoint with unread bytes, from the kernel's table."""
    port = f":{served.endpoint.port:04X}"
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, _, state, queues = line.split()[1:5]
        count += local.endswith(port) and state == "01" and queues.split(":")[1] != "00000000"
    return count


def test_a_large_request_and_its_response_are_coded_outside_the_loop(serve: Serve) -> None:
    served = serve(agent={"max_waiting": 100_000})
    rows = make_samples(20_000)[INPUT]
    response = send_request(served.endpoint.port, INFER, infer_request(rows))
    assert response.status == 200
    found = {output["name"]: output["shape"] for output in response.body["outputs"]}
    assert found["outputs"] == [20_000, 4]
    body = json.dumps(infer_request(rows)).replace("[20000,", "[20001,").replace("[20000, ", "[20001, ").encode()
    response = send_request(served.endpoint.port, INFER, body)
    assert (response.status, "shape [20001, 8]" in response.body["error"]) == (400, True)


def test_the_bodies_of_clients_that_disconnect_do_not_wait_to_be_decoded(serve: Serve, monkeypatch: Any) -> None:
    served = serve(agent={"max_waiting": 100_000})
    reached, resume, decoded = threading.Event(), threading.Event(), []
    decode = infer_call.decode_request

    def wait(body: bytes | bytearray, *arguments: Any, **options: Any) -> Any:
        decoded.append(len(body))
        reached.set()
        resume.wait(20)
        return decode(body, *arguments, **options)

    monkeypatch.setattr(infer_call, "decode_request", wait)
    body = json.dumps(infer_request(make_samples(10_000)[INPUT])).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    tracemalloc.start()
    try:
        for number in range(20):
            with socket.create_connection(("127.0.0.1", served.endpoint.port), timeout=20) as client:
                client.sendall(head + body)
                if not number:
                    assert reached.wait(20)
                wait_for(lambda: served.requests == 1, "the request")
            wait_for(lambda: not served.endpoint.connections, "the disconnection")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3 * len(body)
    resume.set()
    assert send_request(served.endpoint.port, INFER, body).status == 200
    assert decoded == [len(body)] * 2
    assert served.agent.completed_batches == 1


def test_the_samples_that_wait_for_the_endpoints_thread_are_bounded(serve: Serve) -> None:
    served = serve(inline_ms=1000.0, agent={"max_waiting": 2})
    loop = served.endpoint._serving.result()
    blocked, resume = threading.Event(), threading.Event()
    loop.call_soon_threadsafe(lambda: (blocked.set(), resume.wait(20)))
    assert blocked.wait(20)
    body = json.dumps(infer_request(SAMPLES[:2])).encode()
    request = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    clients = [socket.create_connection(("127.0.0.1", served.endpoint.port), timeout=20) for _ in range(3)]
    for client in clients:
        client.sendall(request)
    resume.set()
    statuses = sorted(client.recv(65536).split(b" ", 2)[1] for client in clients)
    for client in clients:
        client.close()
    assert statuses[0] == b"200"
    assert set(statuses) <= {b"200", b"503"}


def test_only_expected_durations_below_the_limit_are_accepted() -> None:
    rule = InlineRule(limit_ms=2.0, golden_ms=0.5, golden_elements=100)
    assert rule.accepts(400)
    assert not rule.accepts(401)
    assert not InlineRule(limit_ms=2.0, golden_ms=2.5, golden_elements=100).accepts(1)
    assert not InlineRule(limit_ms=0.0, golden_ms=0.1, golden_elements=100).accepts(1)


def test_batches_that_take_longer_than_expected_lower_the_limit_until_it_recovers() -> None:
    rule = InlineRule(limit_ms=2.0, golden_ms=0.5, golden_elements=100)
    rule.observe(100, 5.0)
    assert rule.accepts(100), "one slow batch is not enough"
    for _ in range(20):
        rule.observe(100, 5.0)
    assert not rule.accepts(100)
    attempts = next(count for count in range(1000) if rule.accepts(100))
    assert 10 < attempts < 1000

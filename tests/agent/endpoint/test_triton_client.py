"""What Triton's client calls besides inference: model configuration, statistics and compression."""

import json
import time
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from edgeexit.agent import Agent, AgentConfig, EndpointConfig
from edgeexit.agent.endpoint.server import Endpoint
from edgeexit.bundle import Bundle
from tests.agent.endpoint.client import MODEL, Served, infer_request, send_request
from tests.bundles import FEATURES, INPUT, make_samples

ROWS = make_samples(5)[INPUT]


@pytest.fixture
def client(served: Served) -> Any:
    with triton.InferenceServerClient(served.endpoint.address) as client:
        yield client


def make_input(*, binary: bool = True) -> list[Any]:
    tensor = triton.InferInput(INPUT, list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return [tensor]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
def test_compression_changes_no_output(
    client: Any, *, binary: bool, request_coding: str | None, response_coding: str | None
) -> None:
    plain = client.infer("tiny", make_input(binary=binary))
    found = client.infer(
        "tiny",
        make_input(binary=binary),
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    for name in ("predictions", "exits", "outputs", "readouts"):
        np.testing.assert_array_equal(found.as_numpy(name), plain.as_numpy(name))


def test_the_model_configuration_describes_the_tensors_without_the_batch(
    bundle: Bundle, config: AgentConfig, changed: Any
) -> None:
    with (
        Agent(bundle, changed(max_waiting=32, max_delay_ms=1.5)) as agent,
        Endpoint(agent, EndpointConfig(port=0)) as endpoint,
        triton.InferenceServerClient(endpoint.address) as client,
    ):
        for version in ("", bundle.digest):
            found = client.get_model_config("tiny", version)
            assert (found["name"], found["platform"], found["max_batch_size"]) == ("tiny", "edgeexit", 32)
            assert found["input"] == [{"name": INPUT, "data_type": "TYPE_FP32", "dims": [FEATURES]}]
            outputs = {output.pop("name"): output for output in found["output"]}
            assert outputs["predictions"] == {"data_type": "TYPE_INT64", "dims": [1], "reshape": {"shape": []}}
            assert outputs["outputs"] == {"data_type": "TYPE_FP32", "dims": [4]}
            assert found["dynamic_batching"] == {"max_queue_delay_microseconds": 1500}
        metadata = client.get_model_metadata("tiny")
        assert [tensor["shape"][1:] for tensor in metadata["inputs"]] == [[FEATURES]]
        assert set(outputs) == {tensor["name"] for tensor in metadata["outputs"]}


@pytest.mark.parametrize("inline_ms", [0.0, 1000.0])
def test_the_statistics_count_samples_requests_and_failures(serve: Any, bundle: Bundle, inline_ms: float) -> None:
    served = serve(inline_ms=inline_ms)
    started_ms = time.time() * 1000
    with triton.InferenceServerClient(served.endpoint.address) as client:
        (before,) = client.get_inference_statistics("tiny")["model_stats"]
        assert (before["inference_count"], before["last_inference"]) == (0, 0)
        for _ in range(3):
            client.infer("tiny", make_input())
        with pytest.raises(InferenceServerException):
            client.infer("tiny", make_input(), outputs=[triton.InferRequestedOutput("logits")])
        for arguments in ((), ("tiny",), ("tiny", bundle.digest)):
            (found,) = client.get_inference_statistics(*arguments)["model_stats"]
            assert (found["name"], found["version"]) == ("tiny", bundle.digest)
            assert (found["inference_count"], found["execution_count"]) == (15, 3)
            assert started_ms - 1000 < found["last_inference"] < started_ms + 60_000
            stats = found["inference_stats"]
            counts = {name: total["count"] for name, total in stats.items()}
            assert counts == {
                "success": 3, "fail": 1, "queue": 0, "compute_input": 3, "compute_infer": 3, "compute_output": 3,
                "cache_hit": 0, "cache_miss": 0,
            }  # fmt: skip
            parts = sum(stats[name]["ns"] for name in ("compute_input", "compute_infer", "compute_output"))
            assert stats["success"]["ns"] == parts > 0


def test_statistics_include_requests_whose_bodies_are_decoded_in_another_thread(serve: Any) -> None:
    served = serve(agent={"max_waiting": 100_000})
    rows = make_samples(10_000)[INPUT]
    assert send_request(served.endpoint.port, f"{MODEL}/infer", infer_request(rows)).status == 200
    (found,) = send_request(served.endpoint.port, "/v2/models/stats").body["model_stats"]
    assert (found["inference_count"], found["inference_stats"]["success"]["count"]) == (10_000, 1)


def test_calls_for_another_model_or_version_are_refused_by_name(client: Any) -> None:
    for call in (client.get_model_config, client.get_inference_statistics, client.get_model_metadata):
        with pytest.raises(InferenceServerException, match="no model 'other'"):
            call("other")
        with pytest.raises(InferenceServerException, match="has no version '7'"):
            call("tiny", "7")
    assert not client.is_model_ready("other")


def test_the_server_names_the_extensions_that_it_has(client: Any) -> None:
    assert set(client.get_server_metadata()["extensions"]) == {
        "binary_tensor_data", "model_configuration", "model_repository", "statistics",
    }  # fmt: skip


def test_request_parameters_of_tritons_client_are_accepted(client: Any) -> None:
    found = client.infer(
        "tiny", make_input(), request_id="7", priority=2, timeout=1000, parameters={"camera": "door", "retries": 3}
    )
    assert found.get_response()["id"] == "7"


def test_requests_with_null_for_optional_fields_are_accepted(served: Served) -> None:
    request = infer_request(ROWS, id=None, parameters=None, outputs=None)
    request["inputs"][0]["parameters"] = None
    found = send_request(served.endpoint.port, f"{MODEL}/infer", json.dumps(request).encode())
    assert (found.status, "id" in found.body) == (200, False)

"""The calls of the Open Inference Protocol, with Triton's client and with plain HTTP."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from edgeexit.bundle import Bundle
from edgeexit.runtime import Runner, full_model_policy
from tests.agent.endpoint.client import MODEL, Served, infer_request, send_request
from tests.bundles import FEATURES, INPUT, make_samples

ROWS = make_samples(5)[INPUT]


@pytest.fixture
def client(served: Served) -> Any:
    with triton.InferenceServerClient(served.endpoint.address) as client:
        yield client


def make_input(*, binary: bool) -> Any:
    tensor = triton.InferInput(INPUT, list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return [tensor]


def test_health_and_metadata_calls(client: Any, bundle: Bundle) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", bundle.digest)
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    for version in ("", bundle.digest):
        model = client.get_model_metadata("tiny", version)
        assert (model["name"], model["versions"]) == ("tiny", [bundle.digest])
        assert model["inputs"] == [{"name": INPUT, "datatype": "FP32", "shape": [-1, FEATURES]}]
        assert {o["name"]: (o["datatype"], o["shape"]) for o in model["outputs"]} == {
            "predictions": ("INT64", [-1]),
            "exits": ("INT64", [-1]),
            "outputs": ("FP32", [-1, 4]),
            "readouts": ("FP32", [-1, 4]),
            "latency_ms": ("FP64", [-1]),
        }
    (entry,) = client.get_model_repository_index()
    assert (entry["name"], entry["version"], entry["state"]) == ("tiny", bundle.digest, "READY")


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_outputs_equal_those_of_the_runner(
    client: Any, bundle: Bundle, *, binary_input: bool, binary_output: bool
) -> None:
    requested = [
        triton.InferRequestedOutput(name, binary_data=binary_output)
        for name in ("outputs", "predictions", "exits", "readouts", "latency_ms")
    ]
    found = client.infer("tiny", make_input(binary=binary_input), outputs=requested, request_id="r-1")
    with Runner(bundle) as runner:
        expected = runner.infer({INPUT: ROWS}, policy=full_model_policy(3))
    for name in ("predictions", "exits", "outputs", "readouts"):
        np.testing.assert_allclose(found.as_numpy(name), getattr(expected, name), rtol=1e-5, atol=1e-6)
        assert found.as_numpy(name).dtype == getattr(expected, name).dtype
    assert (found.as_numpy("latency_ms") > 0).all()
    response = found.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", "tiny", bundle.digest)
    assert response["parameters"] == {"revision": 0, "policy": "confidence"}


def test_a_response_contains_all_outputs_unless_the_request_names_some(client: Any) -> None:
    everything = client.infer("tiny", make_input(binary=True)).get_response()
    assert [output["name"] for output in everything["outputs"]] == [
        "predictions", "exits", "outputs", "readouts", "latency_ms",
    ]  # fmt: skip
    one = client.infer("tiny", make_input(binary=True), outputs=[triton.InferRequestedOutput("exits")])
    assert [output["name"] for output in one.get_response()["outputs"]] == ["exits"]


def test_an_error_of_the_client_has_a_status_and_a_reason(client: Any) -> None:
    wrong = [
        (
            lambda: client.infer("other", make_input(binary=True)),
            "404",
            "there is no model 'other'; the endpoint serves model 'tiny'",
        ),
        (lambda: client.infer("tiny", make_input(binary=True), model_version="2"), "404", "no version '2'"),
        (
            lambda: client.infer("tiny", make_input(binary=True), outputs=[triton.InferRequestedOutput("logits")]),
            "400",
            "there is no output 'logits'",
        ),
        (client.get_log_settings, "404", "there is no call /v2/logging"),
        (lambda: client.load_model("tiny"), "404", "there is no call /v2/repository/models/tiny/load"),
    ]
    for call, status, text in wrong:
        with pytest.raises(InferenceServerException, match=text) as caught:
            call()
        assert caught.value.status() == status


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((2, 5), dtype=np.float32), "the model takes batchx8"),
        (np.full((2, 8), np.nan, dtype=np.float32), "has NaN in sample 0"),
        (np.zeros((0, 8), dtype=np.float32), "no samples"),
        (np.zeros((2, 8), dtype=np.float64), "float64, but the model takes float32"),
    ],
)
def test_inputs_that_do_not_fit_the_model_are_refused(served: Served, rows: Any, text: str) -> None:
    datatype = "FP64" if rows.dtype == np.float64 else "FP32"
    parameters = {"binary_data_size": rows.nbytes}
    tensor = {"name": INPUT, "shape": list(rows.shape), "datatype": datatype, "parameters": parameters}
    header = json.dumps({"inputs": [tensor]}).encode()
    response = send_request(
        served.endpoint.port,
        f"{MODEL}/infer",
        header + rows.tobytes(),
        Inference_Header_Content_Length=str(len(header)),
    )
    assert response.status == 400
    assert text in response.body["error"]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_json_are_refused_with_advice(served: Served, number: float) -> None:
    rows = np.full((1, FEATURES), number, dtype=np.float32)
    response = send_request(served.endpoint.port, f"{MODEL}/infer", infer_request(rows))
    assert response.status == 400
    assert response.body["error"] == "JSON cannot represent NaN and infinity; send the tensor as binary data"


def test_a_wrong_method_is_refused_and_the_right_one_is_named(served: Served) -> None:
    assert send_request(served.endpoint.port, f"{MODEL}/infer").headers["Allow"] == "POST"


def test_nan_is_accepted_if_not_finite_is_pass(serve: Callable[..., Served]) -> None:
    served = serve(agent={"not_finite": "pass"})
    with triton.InferenceServerClient(served.endpoint.address) as client:
        tensor = triton.InferInput(INPUT, [1, FEATURES], "FP32")
        tensor.set_data_from_numpy(np.full((1, FEATURES), np.nan, dtype=np.float32))
        assert client.infer("tiny", [tensor]).as_numpy("exits").tolist() == [2]


@pytest.mark.parametrize(
    ("path", "options", "status", "text"),
    [
        ("/", {}, 404, "there is no call /"),
        ("/v2/models/tiny/versions", {}, 404, "there is no call"),
        ("/v2/health/live", {"method": "POST", "body": b"x"}, 405, "Method Not Allowed; use GET"),
        ("/v2/health/live", {"method": "DELETE"}, 405, "Method Not Allowed; use GET"),
        (f"{MODEL}/infer", {}, 405, "Method Not Allowed; use POST"),
        (f"{MODEL}/infer", {"body": b"{}", "Origin": "http://evil.example"}, 403, "web pages"),
        (f"{MODEL}/infer", {"body": b"{}", "Inference_Header_Content_Length": "two"}, 400, "'two'"),
        ("/edgeexit/v1/feedback", {"body": b'{"id": "unknown", "label": 1}'}, 404, "'unknown'"),
        ("/edgeexit/v1/feedback", {"body": b'{"id": "a", "label": "cat"}'}, 400, "label"),
        ("/edgeexit/v1/feedback", {"body": b'{"id": "a", "label": 4}'}, 400, "4 classes"),
        ("/edgeexit/v1/feedback", {"body": b'{"id": "a", "label": %d}' % 2**70}, 400, "4 classes"),
    ],
)
def test_every_error_is_json_on_one_line(
    served: Served, path: str, options: dict[str, Any], status: int, text: str
) -> None:
    response = send_request(served.endpoint.port, path, **options)
    assert (response.status, list(response.body)) == (status, ["error"])
    assert text in response.body["error"]
    assert "\n" not in response.body["error"]
    assert response.headers["Content-Type"] == "application/json"


def test_feedback_finds_an_audited_sample_by_the_id_of_its_request(serve: Callable[..., Served]) -> None:
    served = serve(agent={"audit_fraction": 1.0, "report_interval_s": 3600.0})
    port = served.endpoint.port
    assert send_request(port, f"{MODEL}/infer", infer_request(ROWS[:1], id="door-1")).body["id"] == "door-1"
    assert send_request(port, "/edgeexit/v1/feedback", {"id": "door-1", "label": 3}).status == 200
    assert send_request(port, "/edgeexit/v1/feedback", {"id": "door-1", "label": [1, 2]}).status == 400
    assert send_request(port, "/edgeexit/v1/feedback", {"id": "door-2", "label": 3}).status == 404


@pytest.mark.parametrize(("inline_ms", "method"), [(1000.0, "infer"), (0.0, "infer_async")])
def test_an_internal_error_is_logged_but_not_sent_to_the_client(
    serve: Callable[..., Served],
    inline_ms: float,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = serve(inline_ms=inline_ms)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret details")

    monkeypatch.setattr(served.agent._runner, method, broken)
    response = send_request(served.endpoint.port, f"{MODEL}/infer", infer_request(ROWS))
    assert response.status == 500
    assert response.body == {"error": "internal error; see the log of the agent"}
    assert "secret details" in caplog.text

"""The endpoint returns companions that a request names, with Triton's client."""

from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from edgeexit.bundle import Bundle
from tests.agent.endpoint.client import Served
from tests.bundles import INPUT, companions_of, make_bundle, make_samples

SAMPLES = make_samples(5)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "companions", companions=True)


@pytest.fixture
def client(served: Served) -> Any:
    with triton.InferenceServerClient(served.endpoint.address) as client:
        yield client


def infer(client: Any, *names: str, binary: bool = True) -> Any:
    tensor = triton.InferInput(INPUT, list(SAMPLES[INPUT].shape), "FP32")
    tensor.set_data_from_numpy(SAMPLES[INPUT])
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names] or None
    return client.infer("tiny", [tensor], outputs=outputs)


@pytest.mark.parametrize("binary", [True, False])
def test_companions_are_returned_on_request(client: Any, bundle: Bundle, *, binary: bool) -> None:
    found = infer(client, "companion.corners", "exits", "companion.feature", binary=binary)
    every = companions_of(bundle, SAMPLES)
    for name in ("corners", "feature"):
        expected = np.stack([every[k][name][row] for row, k in enumerate(found.as_numpy("exits"))])
        np.testing.assert_allclose(found.as_numpy(f"companion.{name}"), expected, atol=1e-5)
        assert found.as_numpy(f"companion.{name}").dtype == expected.dtype


def test_a_request_that_names_no_outputs_gets_no_companions(client: Any) -> None:
    names = [output["name"] for output in infer(client).get_response()["outputs"]]
    assert names == ["predictions", "exits", "outputs", "readouts", "latency_ms"]


def test_the_metadata_lists_companions_and_an_unknown_one_is_refused(client: Any) -> None:
    outputs = {each["name"]: each for each in client.get_model_metadata("tiny")["outputs"]}
    assert outputs["companion.corners"] == {"name": "companion.corners", "datatype": "FP32", "shape": [-1, 2, 2]}
    assert outputs["companion.feature"] == {"name": "companion.feature", "datatype": "INT64", "shape": [-1]}
    with pytest.raises(InferenceServerException, match=r"no output 'companion.boxes'; .* companion.corners, "):
        infer(client, "companion.boxes")

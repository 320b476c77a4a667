"""A request whose results would be far larger than its body is refused before it runs."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeexit.agent import Agent, AgentConfig, EndpointConfig
from edgeexit.agent.endpoint.refusal import RefusalError
from edgeexit.agent.endpoint.result_limit import ResultLimit
from edgeexit.agent.endpoint.server import Endpoint
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import TensorSpec
from tests.agent.endpoint.client import MODEL, infer_request, send_request
from tests.bundles import INPUT, make_bundle, make_samples


def test_many_samples_of_a_model_with_many_classes_are_refused(tmp_path: Path, config: AgentConfig) -> None:
    bundle = make_bundle(tmp_path / "wide", classes=2000)
    with Agent(bundle, config) as agent, Endpoint(agent, EndpointConfig(port=0, max_body_bytes=4096)) as endpoint:

        def send(samples: int) -> Any:
            return send_request(endpoint.port, f"{MODEL}/infer", infer_request(make_samples(samples)[INPUT]))

        assert send(2).status == 200
        response = send(3)
        assert response.status == 413
        assert "the results of 3 samples would have 24000 bytes, but may have at most 16384" in response.body["error"]
        assert agent.completed_batches == 1


@pytest.mark.parametrize(("rows", "refused"), [((1, 300, 300), False), ((2, 8, 8), False), ((2, 300, 300), True)])
def test_symbolic_dimensions_are_those_of_the_inputs(bundle: Bundle, rows: tuple[int, ...], *, refused: bool) -> None:
    stages = tuple(
        msgspec.structs.replace(
            stage, exit=TensorSpec(name=stage.exit.name, dtype="float32", shape=("batch", 4, "height", "width"))
        )
        for stage in bundle.manifest.stages
    )
    image = TensorSpec(name=INPUT, dtype="uint8", shape=("batch", "height", "width"))
    manifest = msgspec.structs.replace(bundle.manifest, task="segmentation", inputs=(image,), stages=stages)
    limit = ResultLimit(manifest, 1_000_000)
    inputs = {INPUT: np.zeros(rows, dtype=np.uint8)}
    if refused:
        with pytest.raises(RefusalError, match="the results of 2 samples would have 2880000 bytes"):
            limit.check(inputs)
    else:
        limit.check(inputs)

"""Runs the stages of a bundle in order, as the manifest describes them, with ONNX Runtime and without the runner."""

import numpy as np
import onnxruntime as ort

from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT
from edgeexit.datasets import Inputs


def run_stages(bundle: Bundle, inputs: Inputs, temperature: float = 1.0) -> dict[str, np.ndarray]:
    """Return every output of every stage by name; a stage gets only the tensors that the manifest lists."""
    tensors = dict(inputs)
    outputs = {}
    for stage in bundle.manifest.stages:
        session = ort.InferenceSession(bundle.path / stage.file, providers=["CPUExecutionProvider"])
        feeds = {name: tensors[name] for name in (*stage.inputs, *stage.carry_in)}
        feeds[TEMPERATURE_INPUT] = np.array([temperature], dtype=np.float32)
        carried = [tensor.name for tensor in stage.carry_out]
        exit_name = stage.exit.name
        names = [exit_name, exit_name + READOUT_SUFFIX, exit_name + PROBABILITIES_SUFFIX, *carried]
        assert {value.name for value in session.get_inputs()} == feeds.keys()
        assert sorted(value.name for value in session.get_outputs()) == sorted(names)
        results = dict(zip(names, session.run(names, feeds), strict=True))
        for tensor in stage.carry_out:
            assert results[tensor.name].dtype == tensor.dtype
            assert [s for s, t in zip(results[tensor.name].shape, tensor.shape, strict=True) if isinstance(t, int)] == [
                t for t in tensor.shape if isinstance(t, int)
            ]
        outputs |= results
        tensors |= {name: results[name] for name in carried}
    return outputs

"""A random ONNX model is either rejected with one line, or its stages return the logits of the full model."""

import os
import re
from random import Random

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeexit.bundle.manifest import TEMPERATURE_INPUT
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.random_graphs import random_inputs, random_model

SIZES = ((1, 8), (2, 8), (3, 8), (5, 5), (7, 13), (1, 2), (2, 3), (3, 2), (3, 3))
"""Batch sizes and lengths, including those with which the compiler probes the shapes."""
GRAPHS = int(os.environ.get("RANDOM_GRAPHS", "100"))
"""Number of random models."""


def open_quietly(path):
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def composed(stages, sessions, inputs, rng):
    """Run the stages; yield the remaining samples and their logits at each exit.

    After each stage, a random half of the samples exits; none if `rng` is None.
    """
    rows = np.arange(len(next(iter(inputs.values()))))
    tensors = dict(inputs)
    for stage, session in zip(stages, sessions, strict=True):
        feeds = {name: tensors[name] for name in (*stage.inputs, *stage.carry_in)}
        feeds[TEMPERATURE_INPUT] = np.ones(1, dtype=np.float32)
        logits, *results = session.run([stage.exit.name, *(spec.name for spec in stage.carry_out)], feeds)
        yield rows, logits
        for spec, result in zip(stage.carry_out, results, strict=True):
            assert (len(result), result.dtype) == (len(rows), spec.dtype)
            assert all(isinstance(b, str) or a == b for a, b in zip(result.shape, spec.shape, strict=True))
            tensors[spec.name] = result
        continues = rng.random(len(rows)) < 0.5 if rng is not None else np.ones(len(rows), dtype=bool)
        continues[0] |= not continues.any()
        rows, tensors = rows[continues], {name: array[continues] for name, array in tensors.items()}


@settings(max_examples=GRAPHS, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 10**9), st.integers(3, 25))
def test_the_stages_equal_the_random_model_or_it_is_rejected_with_one_line(tmp_path_factory, seed, steps):
    folder = tmp_path_factory.mktemp("random")
    model = random_model(Random(seed), steps=steps)  # noqa: S311 - no secret
    onnx.save(model, folder / "model.onnx")
    full_model = open_quietly(folder / "model.onnx")
    exits = [value.name for value in model.graph.output]
    bundle, message = None, ""
    try:
        bundle = compile_bundle(folder / "model.onnx", folder / "bundle", CompileOptions(exits=exits))
    except CompileError as error:
        message = str(error)
    if bundle is None:
        assert "\n" not in message
        # The model is valid, so an error must be about the model, not about wrong stages or invalid ONNX.
        assert not re.search("stages differ|valid ONNX|ONNX Runtime cannot open", message)
        assert [file.name for file in folder.iterdir()] == ["model.onnx"]
        return
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "bundle"}
    stages, tolerance = bundle.manifest.stages, 2 * bundle.manifest.proof.absolute_tolerance
    assert sorted(exits) == sorted(stage.exit.name for stage in stages)
    exits = [stage.exit.name for stage in stages]  # the compiler sorts them by depth
    sessions = [open_quietly(bundle.path / stage.file) for stage in stages]
    for batch, length in SIZES:
        inputs = random_inputs(model, batch, batch, length)
        try:
            expected = full_model.run(exits, inputs)
        except Exception:  # noqa: BLE001, S112 - the model itself does not run on this length
            continue
        if any(len(logits) != batch for logits in expected):  # a Squeeze without axes removed a batch of 1
            continue
        for rng in (None, np.random.default_rng(batch)):
            for (rows, found), logits in zip(composed(stages, sessions, inputs, rng), expected, strict=True):
                np.testing.assert_allclose(found, logits[rows], atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize("seed", [3, 7])
def test_a_random_model_compiles_to_the_same_bytes_twice(tmp_path, seed):
    model = random_model(Random(seed), steps=20)  # noqa: S311 - no secret
    onnx.save(model, tmp_path / "model.onnx")
    exits = [value.name for value in model.graph.output]
    first, second = (
        compile_bundle(tmp_path / "model.onnx", tmp_path / name, CompileOptions(exits=exits)) for name in ("a", "b")
    )
    assert first.digest == second.digest

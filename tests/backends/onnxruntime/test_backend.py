"""The ONNX Runtime backend: execution providers, its life cycle, and the reuse of buffers."""

import platform

import numpy as np
import onnxruntime as ort
import pytest

from edgeexit.backends.onnxruntime.batch import OnnxRuntimeBatch
from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, InferenceError, TargetError
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner, make_backend
from tests.bundles import INPUT, make_bundle, make_samples

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(None,) * 2)
TARGET = """
description = "A box"
architecture = "{architecture}"
runtime = "onnxruntime"
precisions = ["fp32"]
opset = 20
[session]
threads = 1
provider = "{provider}"
"""


@pytest.fixture
def bundle_on(tmp_path, monkeypatch):
    """Return a function that makes a bundle for a user target with this execution provider."""

    def make(provider):
        (tmp_path / "targets").mkdir()
        text = TARGET.format(architecture=platform.machine(), provider=provider)
        (tmp_path / "targets" / "box.toml").write_text(text)
        monkeypatch.chdir(tmp_path)
        return make_bundle(tmp_path / "bundle", target="box")

    return make


def test_a_provider_that_is_not_in_the_build_is_refused_unless_fallback_is_allowed(bundle_on):
    bundle = bundle_on("RocketExecutionProvider")
    with pytest.raises(TargetError, match="'RocketExecutionProvider' of target 'box' is not in this build"):
        Runner(bundle, fallback=False).__enter__()
    with Runner(bundle, fallback=True) as runner:
        assert "'RocketExecutionProvider' of target 'box' is not in this build of ONNX Runtime" in runner.warnings[0]
        assert runner.warnings[0].endswith("the CPU runs the stages")
        assert len(runner.infer(make_samples(3), policy=POLICY).exits) == 3


def test_a_listed_provider_that_does_not_start_is_refused_unless_fallback_is_allowed(bundle_on, monkeypatch):
    """ONNX Runtime lists the providers in its build, and silently drops one that does not start."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    bundle = bundle_on("CUDAExecutionProvider")
    with pytest.raises(TargetError, match="'CUDAExecutionProvider' of target 'box' does not"):
        Runner(bundle, fallback=False).__enter__()
    with Runner(bundle, fallback=True) as runner:
        assert runner.warnings[0].endswith("the CPU runs the stages")
        assert runner.runtime == f"onnxruntime {ort.__version__}"


def test_a_provider_runs_a_golden_sample_before_it_is_used(bundle_on):
    """The Azure provider is in every build of ONNX Runtime, starts, and supports no node, so the CPU runs all nodes."""
    bundle = bundle_on("AzureExecutionProvider")
    with Runner(bundle, fallback=False) as runner:
        assert runner.runtime.endswith("(AzureExecutionProvider)")
    (bundle.path / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        Runner(bundle, fallback=False).__enter__()


@pytest.mark.parametrize("stage", [0, 2])
def test_the_cpu_replaces_a_provider_that_returns_nan_at_a_stage(bundle_on, monkeypatch, stage):
    bundle = bundle_on("AzureExecutionProvider")
    batches, run = [], OnnxRuntimeBatch.run

    def returning_nan(self, temperature):
        readout = run(self, temperature)
        batches.append(self)
        return np.full_like(readout, np.nan) if self is batches[0] and len(batches) == stage + 1 else readout

    monkeypatch.setattr(OnnxRuntimeBatch, "run", returning_nan)
    with Runner(bundle) as runner:
        assert "returns NaN or infinity for a golden sample; the CPU runs" in runner.warnings[0]
        assert np.isfinite(runner.infer(make_samples(1), policy=POLICY).outputs).all()


def test_a_batch_may_outlive_its_backend(tmp_path):
    backend = make_backend(make_bundle(tmp_path / "bundle"))
    samples = make_samples(2)
    with backend:
        late = backend.begin(samples, probabilities=False)
        late.run(1.0)
    with pytest.raises(InferenceError, match="the backend is closed"):
        backend.begin(samples, probabilities=False)
    with late:
        late.run(1.0)
    with backend, backend.begin(samples, probabilities=False) as batch:
        assert np.isfinite(batch.run(1.0)).all()


def test_buffers_of_many_sizes_do_not_mix_results(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    samples = make_samples(130, seed=4)
    with Runner(bundle) as runner:
        expected = runner.infer_every_exit(samples).outputs["e2"]
        for size in (1, 64, 3, 130, 2, 65, 1):
            found = runner.infer({INPUT: samples[INPUT][:size]}, policy=POLICY).outputs
            np.testing.assert_allclose(found, expected[:size], atol=1e-5)


def test_a_backend_can_be_opened_again(tmp_path):
    runner = Runner(Bundle.open(make_bundle(tmp_path / "bundle").path))
    for _ in range(2):
        with runner:
            assert len(runner.infer(make_samples(2), policy=POLICY).exits) == 2

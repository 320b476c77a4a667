import platform

import numpy as np
import onnxruntime as ort
import pytest
from bundles import INPUT, make_bundle, make_samples

from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, EdgeExitError, TargetError
from edgeexit.policies import Confidence
from edgeexit.runtime import Runner

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(None,) * 2)
OTHER_CPU = "raspberry-pi-5" if platform.machine() == "x86_64" else "x86-cpu"
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
    """Give a bundle for a target of one's own with an execution provider."""

    def make(provider):
        (tmp_path / "targets").mkdir()
        text = TARGET.format(architecture=platform.machine(), provider=provider)
        (tmp_path / "targets" / "box.toml").write_text(text)
        monkeypatch.chdir(tmp_path)
        return make_bundle(tmp_path / "bundle", target="box")

    return make


def test_a_bundle_for_another_architecture_is_refused_unless_fallback_is_allowed(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", target=OTHER_CPU)
    with pytest.raises(TargetError, match=rf"'{OTHER_CPU}' is for \w+, this is {platform.machine()}; compile for"):
        Runner(bundle, fallback=False)
    with Runner(bundle, fallback=True) as runner:
        assert "latencies say nothing of the target's" in runner.remarks[0]


def test_a_runtime_that_is_not_here_is_refused_unless_fallback_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    bundle = make_bundle(tmp_path / "bundle", target="jetson-orin-nano")
    with pytest.raises(EdgeExitError) as refused:
        Runner(bundle, fallback=False)
    assert len(str(refused.value).splitlines()) == 1
    with Runner(bundle, fallback=True) as runner:
        assert "runs plans of tensorrt; here ONNX Runtime runs the stages" in runner.remarks[0]
        assert str(refused.value) in runner.remarks[0]
        assert runner.runtime == f"onnxruntime {ort.__version__}"


def test_a_provider_that_this_build_lacks_is_refused_unless_fallback_is_allowed(bundle_on):
    bundle = bundle_on("RocketExecutionProvider")
    with pytest.raises(TargetError, match="'RocketExecutionProvider' of target 'box' is not in this build"):
        Runner(bundle, fallback=False).__enter__()
    with Runner(bundle, fallback=True) as runner:
        assert "'RocketExecutionProvider' of target 'box' is not in this build of ONNX Runtime" in runner.remarks[0]
        assert runner.remarks[0].endswith("the CPU runs the stages")
        assert len(runner.infer(make_samples(3), policy=POLICY).exits) == 3


def test_a_provider_that_is_listed_and_does_not_start_is_refused_unless_fallback_is_allowed(bundle_on, monkeypatch):
    """ONNX Runtime says which providers were compiled in, and leaves out without an error what does not start."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    bundle = bundle_on("CUDAExecutionProvider")
    with pytest.raises(TargetError, match="'CUDAExecutionProvider' of target 'box' does not"):
        Runner(bundle, fallback=False).__enter__()
    with Runner(bundle, fallback=True) as runner:
        assert runner.remarks[0].endswith("the CPU runs the stages")
        assert runner.runtime == f"onnxruntime {ort.__version__}"


def test_a_provider_is_tried_on_a_golden_sample(bundle_on):
    """Azure's is in every build, takes no node, and is as good an example as any of one that starts."""
    bundle = bundle_on("AzureExecutionProvider")
    with Runner(bundle, fallback=False) as runner:
        assert runner.runtime.endswith("(AzureExecutionProvider)")
    (bundle.path / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        Runner(bundle, fallback=False).__enter__()


def test_buffers_of_many_sizes_and_threads_do_not_mix_answers(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    samples = make_samples(130, seed=4)
    with Runner(bundle) as runner:
        whole = runner.infer_every_exit(samples).outputs["e2"]
        for size in (1, 64, 3, 130, 2, 65, 1):
            found = runner.infer({INPUT: samples[INPUT][:size]}, policy=POLICY).outputs
            np.testing.assert_allclose(found, whole[:size], atol=1e-5)


def test_opening_again_after_closing_works(tmp_path):
    runner = Runner(Bundle.open(make_bundle(tmp_path / "bundle").path))
    for _ in range(2):
        with runner:
            assert len(runner.infer(make_samples(2), policy=POLICY).exits) == 2

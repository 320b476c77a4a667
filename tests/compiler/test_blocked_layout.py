"""On x86-64, ONNX Runtime fuses residual sums after a cut into its convolutions, with the same results."""

import platform
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.runtime import Runner


class Shortcuts(nn.Module):
    """Residual blocks whose shortcuts are a slice and a pad, as in ResNet-56; an exit after every second block."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, 1 if a == b else 2, 1) for a, b in [(16, 16), (16, 16), (16, 32), (32, 32)]
        )
        self.heads = nn.ModuleList(nn.Linear(width, 5) for width in (16, 32))

    def forward(self, image):
        x, exits = torch.relu(self.stem(image)), []
        for number, convolution in enumerate(self.convolutions):
            y = convolution(x)
            if y.shape != x.shape:
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
            x = torch.relu(x + y)
            if number % 2:
                exits.append(self.heads[len(exits)](x.mean((2, 3))))
        return tuple(exits)


def compiled(folder, target):
    return compile_bundle(
        Shortcuts().eval(), folder / target, CompileOptions(target=target, inputs=("image:batch,3,16,16",))
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("blocks"), "x86-cpu")


def operators(path, folder):
    """Return operator -> count in the graph that ONNX Runtime runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def images(count):
    return np.random.default_rng(1).normal(size=(count, 3, 16, 16)).astype(np.float32)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="blocked convolutions are those of x86-64")
def test_onnx_runtime_fuses_the_shortcuts_after_a_cut_into_its_convolutions(bundle, tmp_path):
    for stage in bundle.manifest.stages:
        found = operators(bundle.path / stage.file, tmp_path)
        if "ReorderOutput" not in found:
            pytest.skip("this processor has no blocked convolutions")
        assert found["Add"] == found["Relu"] == 0


def test_logits_equal_those_of_torch_at_any_batch_size(bundle):
    for batch in (1, 5):
        with torch.no_grad():
            expected = [logits.numpy() for logits in Shortcuts().eval()(torch.from_numpy(images(batch)))]
        with Runner(bundle) as runner:
            outputs = runner.infer_every_exit({"image": images(batch)}).outputs.values()
        for found, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_a_sample_give_logits_that_are_not_finite(bundle, bad):
    image = images(2)
    image[0, 1, 5, 5] = bad
    with Runner(bundle) as runner, np.errstate(invalid="ignore"):
        for found in runner.infer_every_exit({"image": image}).outputs.values():
            assert not np.isfinite(found[0]).all()
            assert np.isfinite(found[1]).all()


def test_a_target_without_blocked_convolutions_gets_no_pooling(tmp_path):
    stage = onnx.load(compiled(tmp_path, "arm64-cpu").path / "stage1.onnx", load_external_data=False)
    assert "AveragePool" not in {node.op_type for node in stage.graph.node}

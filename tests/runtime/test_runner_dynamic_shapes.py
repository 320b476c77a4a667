"""Inputs with symbolic height and width, and carries whose size is known only at run time."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import DataError
from edgeexit.runtime import Runner
from tests.runtime.policies_of_every_kind import policies_on

EXITS, CLASSES = 3, 4


class AnySize(nn.Module):
    """Strided convolutions with an exit after each one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList(nn.Conv2d(2 if k == 0 else 6, 6, 3, stride=2, padding=1) for k in range(EXITS))
        self.heads = nn.ModuleList(nn.Linear(6, CLASSES) for _ in range(EXITS))

    def forward(self, image):
        predictions = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            image = torch.tanh(3 * block(image))
            predictions.append(8 * head(image.mean((2, 3))))
        return tuple(predictions)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return compile_bundle(
        AnySize(), tmp_path_factory.mktemp("sizes") / "bundle", CompileOptions(inputs=["image:batch,2,height,width"])
    )


def images(count, height, width):
    return {"image": np.random.default_rng(height).normal(size=(count, 2, height, width)).astype(np.float32)}


def test_the_bundle_has_a_carry_whose_size_is_known_only_at_run_time(bundle):
    input_symbols = {size for spec in bundle.manifest.inputs for size in spec.shape if isinstance(size, str)}
    carried = {size for spec in bundle.manifest.live_after(0) for size in spec.shape if isinstance(size, str)}
    assert carried - input_symbols


@pytest.mark.parametrize("sizes", [(16, 16), (9, 31), (40, 12)])
def test_images_of_any_size_give_the_outputs_of_the_model(bundle, sizes):
    batch = images(70, *sizes)
    with torch.inference_mode():
        expected = AnySize()(torch.from_numpy(batch["image"]))
    with Runner(bundle) as runner:
        every = runner.infer_every_exit(batch, probabilities=True)
        for found, right in zip(every.outputs.values(), expected, strict=True):
            np.testing.assert_allclose(found, right, atol=1e-4)
        policy = policies_on(every.readouts)["confidence"]
        result = runner.infer(batch, policy=policy)
        assert len(np.unique(result.exits)) > 1
        np.testing.assert_allclose(
            result.outputs, np.stack([expected[k][row] for row, k in enumerate(result.exits)]), atol=1e-4
        )


def test_concurrent_requests_of_different_sizes_do_not_mix(bundle):
    requests = [images(count, height, 16) for count in (1, 3, 2) for height in (16, 24, 33)] * 3
    with Runner(bundle, max_delay_ms=20) as runner:
        policy = policies_on(runner.infer_every_exit(images(60, 24, 16), probabilities=True).readouts)["patience"]
        expected = [runner.infer(inputs, policy=policy) for inputs in requests]
        futures = [runner.infer_async(inputs, policy=policy) for inputs in requests]
        for future, right in zip(futures, expected, strict=True):
            found = future.result(30)
            np.testing.assert_array_equal(found.exits, right.exits)
            np.testing.assert_allclose(found.outputs, right.outputs, atol=1e-4)


class Sum(nn.Module):
    """A model with two inputs that share the symbolic dimension `length`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.heads = nn.ModuleList(nn.Linear(4, CLASSES) for _ in range(2))

    def forward(self, left, right):
        both = torch.tanh(left + right)
        return self.heads[0](both.mean(1)), self.heads[1](torch.tanh(both).mean(1))


@pytest.mark.parametrize("lengths", [(5, 1), (1, 5), (5, 3)])
def test_inputs_that_share_a_symbolic_dimension_must_have_the_same_size(tmp_path, lengths):
    bundle = compile_bundle(
        Sum(), tmp_path / "bundle", CompileOptions(inputs=["left:batch,length,4", "right:batch,length,4"])
    )
    inputs = {
        name: np.ones((2, length, 4), np.float32) for name, length in zip(("left", "right"), lengths, strict=True)
    }
    refusal = f"dimension 'length' is {lengths[1]} in 'right' and {lengths[0]} in 'left'; give both the same size"
    with Runner(bundle) as runner, pytest.raises(DataError, match=refusal):
        runner.infer_every_exit(inputs)

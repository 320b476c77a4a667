"""Inputs whose height and width only the call tells, and carries whose size only the run tells."""

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
    """Strided convolutions with an exit after each."""

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


def test_a_carry_whose_size_only_the_run_tells_is_part_of_this(bundle):
    words = {size for spec in bundle.manifest.inputs for size in spec.shape if isinstance(size, str)}
    carried = {size for spec in bundle.manifest.live_after(0) for size in spec.shape if isinstance(size, str)}
    assert carried - words


@pytest.mark.parametrize("sizes", [(16, 16), (9, 31), (40, 12)])
def test_batches_of_any_size_answer_as_the_model_does(bundle, sizes):
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


def test_requests_of_several_sizes_at_once_do_not_mix(bundle):
    asked = [images(count, height, 16) for count in (1, 3, 2) for height in (16, 24, 33)] * 3
    with Runner(bundle, max_delay_ms=20) as runner:
        policy = policies_on(runner.infer_every_exit(images(60, 24, 16), probabilities=True).readouts)["patience"]
        expected = [runner.infer(inputs, policy=policy) for inputs in asked]
        futures = [runner.infer_async(inputs, policy=policy) for inputs in asked]
        for future, right in zip(futures, expected, strict=True):
            found = future.result(30)
            np.testing.assert_array_equal(found.exits, right.exits)
            np.testing.assert_allclose(found.outputs, right.outputs, atol=1e-4)


class Sum(nn.Module):
    """Two inputs of one length."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.heads = nn.ModuleList(nn.Linear(4, CLASSES) for _ in range(2))

    def forward(self, left, right):
        both = torch.tanh(left + right)
        return self.heads[0](both.mean(1)), self.heads[1](torch.tanh(both).mean(1))


@pytest.mark.parametrize("lengths", [(5, 1), (1, 5), (5, 3)])
def test_two_inputs_of_one_length_are_given_the_same(tmp_path, lengths):
    bundle = compile_bundle(
        Sum(), tmp_path / "bundle", CompileOptions(inputs=["left:batch,length,4", "right:batch,length,4"])
    )
    inputs = {
        name: np.ones((2, length, 4), np.float32) for name, length in zip(("left", "right"), lengths, strict=True)
    }
    refusal = f"dimension 'length' is {lengths[1]} in 'right' and {lengths[0]} in 'left'; give both the same size"
    with Runner(bundle) as runner, pytest.raises(DataError, match=refusal):
        runner.infer_every_exit(inputs)

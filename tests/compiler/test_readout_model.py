"""The readout nodes of the stages alone, compared to the bit with the stages."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.compiler.readout_model import StageReadouts
from edgeexit.policies.readout import ENTROPY
from edgeexit.runtime import Runner

CLASSES = 11
SAMPLES = np.random.default_rng(0).normal(size=(130, 20)).astype(np.float32)
TEMPERATURES = (2.345, 0.037)


class _TwoExits(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(20, 32), nn.Linear(32, 32)
        self.heads = nn.ModuleList([nn.Linear(32, CLASSES), nn.Linear(32, CLASSES)])

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = torch.relu(self.second(y))
        return {"near": 9 * self.heads[0](y), "far": 30 * self.heads[1](z)}


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def bundle(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    options = CompileOptions(example={"x": SAMPLES[:64]}, precision=request.param)
    return compile_bundle(_TwoExits().eval(), folder, options)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("temperatures", [(1.0, 1.0), TEMPERATURES])
def test_readouts_of_recorded_logits_equal_those_of_the_stages_to_the_bit(bundle, batch, temperatures):
    read = StageReadouts(bundle)
    with Runner(bundle) as runner:
        for start in range(0, 5 * batch if batch == 1 else len(SAMPLES), batch):
            every = runner.infer_every_exit(
                {"x": SAMPLES[start : start + batch]}, temperatures=temperatures, probabilities=True
            )
            for k, logits in enumerate(every.outputs.values()):
                readout, probabilities = read(k, logits, temperatures[k])
                np.testing.assert_array_equal(readout, every.readouts[:, k, :4])
                np.testing.assert_array_equal(probabilities, every.readouts[:, k, 4:])


def test_a_readout_hardly_depends_on_the_other_rows_of_its_block(bundle):
    """The runtime sums an entropy in an order that depends on the address of the row; all else is equal to the bit."""
    read = StageReadouts(bundle)
    logits = (10 * SAMPLES[:, :CLASSES]).copy()
    together, probabilities = read(0, logits, 2.345)
    alone = [read(0, row[None], 2.345) for row in logits]
    for one, row, row_probabilities in zip(alone, together, probabilities, strict=True):
        np.testing.assert_array_equal(one.readout[0, :ENTROPY], row[:ENTROPY])
        np.testing.assert_array_equal(one.probabilities[0], row_probabilities)
        np.testing.assert_allclose(one.readout[0, ENTROPY], row[ENTROPY], rtol=1e-5, atol=1e-6)


def test_a_copy_opens_its_own_sessions(bundle):
    read = StageReadouts(bundle)
    logits = SAMPLES[:, :CLASSES].copy()
    first = read(1, logits, 0.5)
    np.testing.assert_array_equal(copy.deepcopy(read)(1, logits, 0.5).readout, first.readout)

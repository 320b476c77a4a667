"""Torch networks whose exits are packed in one tensor compile to stages that each do their own part."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler.full_model import assert_composed, module_as_full_model

EXITS = 3
IMAGES = {"x": np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)}


class PackedNet(nn.Module):
    """Three blocks; `pack` computes the exits from their features [B, 6] in one tensor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Conv2d(3 if block == 0 else 6, 6, 3, padding=1) for block in range(EXITS))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 4))
        self.weights = nn.Parameter(torch.randn(EXITS, 6, 4))

    def forward(self, x):
        found = []
        for block in self.blocks:
            x = block(x).relu()
            found.append(x.mean((2, 3)))
        return self.pack(found)


class RowsOfSamples(PackedNet):
    """One head on the rows of all features, and the mean of the exits so far."""

    def pack(self, features):
        stacked = torch.stack(features, 1)
        logits = self.head(self.norm(stacked).flatten(0, 1)).view(-1, EXITS, 4)
        return (logits.cumsum(1) / torch.arange(1, EXITS + 1)[:, None]).unbind(1)


class BatchedHeads(PackedNet):
    """One batched matmul for all heads."""

    def pack(self, features):
        return torch.einsum("kbd,kdc->bkc", torch.stack(features), self.weights).flatten(1).chunk(EXITS, 1)


class WrittenExits(PackedNet):
    """Exits written into a tensor that was allocated before."""

    def pack(self, features):
        out = features[0].new_zeros(len(features[0]), EXITS, 4)
        for index, feature in enumerate(features):
            out[:, index] = self.head(feature)
        return out[:, 0], out[:, 1], out[:, -1]


class BatchOfFeatures(PackedNet):
    """One head on the features of all exits, concatenated along the batch."""

    def pack(self, features):
        return self.head(torch.cat(features)).split(features[0].shape[0])


@pytest.mark.parametrize(
    ("network", "precision"),
    [(BatchOfFeatures, "fp32"), (RowsOfSamples, "fp32"), (WrittenExits, "int8"), (BatchedHeads, "fp16")],
)
def test_a_packed_network_compiles_to_stages_that_all_have_work(tmp_path, network, precision):
    options = CompileOptions(example=IMAGES, precision=precision)
    module = network().eval()
    bundle = compile_bundle(module, tmp_path / "bundle", options)
    macs = [stage.macs for stage in bundle.manifest.stages]
    assert max(macs) < 3 * min(macs), "each stage has one block and one head"
    if precision == "fp32":
        assert_composed(bundle, module_as_full_model(module), IMAGES)

"""Networks that compute in float16 before they are compiled."""

import torch
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler.full_model import BATCHES, assert_composed, module_as_full_model


class Half(nn.Module):
    """Residual blocks in float16, with a float32 exit after each block."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(64, 10) for _ in range(3))
        self.half()

    def forward(self, x):
        exits, y = [], x.half()
        for block, head in zip(self.blocks, self.heads, strict=True):
            y = y + block(y).relu()
            exits.append(head(y).float())
        return tuple(exits)


def test_a_float16_network_is_proven_within_the_float16_tolerance(tmp_path):
    module = Half()
    bundle = compile_bundle(module, tmp_path / "bundle", CompileOptions(inputs=["x:batch,64"]))
    assert [spec.dtype for stage in bundle.manifest.stages for spec in stage.carry_out] == ["float16", "float16"]
    proof = bundle.manifest.proof
    assert max(proof.max_absolute_error.values()) < proof.absolute_tolerance < 0.1
    x = torch.randn(max(BATCHES), 64, generator=torch.Generator().manual_seed(1)).numpy()
    assert_composed(bundle, module_as_full_model(module), {"x": x}, tolerance=0.02)

"""Splits of a dynamic dimension become slices, with the same parts."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from edgeexit.compiler.tracing.decompositions import decompose

DYNAMIC = torch.ops.aten.split.Tensor, torch.ops.aten.chunk.default


class Doubled(nn.Module):
    """Splits a tensor [2 * batch, 6]."""

    def __init__(self, take):
        super().__init__()
        self.take = take

    def forward(self, x):
        return tuple(part.sum(-1) for part in self.take(torch.cat([x, 2 * x]), x.shape[0]))


def exported(take):
    dynamic = {"x": {0: Dim.DYNAMIC}}
    return torch.export.export(Doubled(take), (torch.randn(2, 6),), dynamic_shapes=dynamic, strict=False)


@pytest.mark.parametrize(
    "take",
    [
        pytest.param(lambda y, batch: y.split(batch), id="split"),
        pytest.param(lambda y, _: y.chunk(2), id="chunk"),
        pytest.param(lambda y, _: y.T.chunk(2, dim=-1), id="last axis"),
    ],
)
def test_the_parts_of_a_dynamic_dimension_are_slices(take):
    program = exported(take)
    found = decompose(program)
    assert not any(node.target in DYNAMIC for node in found.graph.nodes)
    for batch in (2, 5):
        x = torch.randn(batch, 6)
        for part, expected in zip(found.module()(x), program.module()(x), strict=True):
            torch.testing.assert_close(part, expected)


def test_a_split_of_a_static_dimension_stays():
    program = exported(lambda y, _: y.chunk(2, 1))
    assert decompose(program) is program

"""Every form of scaled_dot_product_attention is translated to ONNX nodes that return what torch returns."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as attention

from tests.compiler.tracing.functions import differences

B, HEADS, LENGTH, SIZE = 5, 4, 6, 8
BIAS = torch.linspace(-2, 2, HEADS * LENGTH * LENGTH).view(HEADS, LENGTH, LENGTH)
BELOW = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
SAMPLES = torch.randn(B, HEADS, LENGTH, SIZE, generator=torch.Generator().manual_seed(1))


def seen(x):
    """Return a mask [B, 1, 1, L]; the first two samples attend to nothing."""
    return (torch.arange(LENGTH) < (x[:, 0, :, 0] > 0).sum(1, keepdim=True))[:, None, None] & (x[:, :1, :1, :1] < 9)


def infinite(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)


FORMS = {
    "four dimensions": lambda x: attention(x, x, x),
    "three dimensions": lambda x: attention(x[:, 0], x[:, 1], x[:, 2]),
    "five dimensions": lambda x: attention(*[x.unflatten(1, (2, 2))] * 3),
    "fewer keys": lambda x: attention(x, x[:, :, :3], x[:, :, :3]),
    "one head of keys": lambda x: attention(x, x[:, :1], x[:, :1]),
    "scale": lambda x: attention(x, x, x, scale=0.3),
    "causal": lambda x: attention(x, x, x, is_causal=True),
    "causal with fewer keys": lambda x: attention(x, x[:, :, :4], x[:, :, :4], is_causal=True),
    "grouped queries": lambda x: attention(x, x[:, :2], x[:, 2:], enable_gqa=True),
    "grouped queries, causal": lambda x: attention(x, x[:, :2], x[:, 2:], enable_gqa=True, is_causal=True),
    "bias [L, L]": lambda x: attention(x, x, x, attn_mask=BIAS[0]),
    "bias [1, 1, L, L]": lambda x: attention(x, x, x, attn_mask=BIAS[None, :1]),
    "bias [H, L, L]": lambda x: attention(x, x, x, attn_mask=BIAS),
    "bias of the batch": lambda x: attention(x, x, x, attn_mask=x[:, :1, :, 0].unsqueeze(2)),
    "bias on three dimensions": lambda x: attention(x[:, 0], x[:, 0], x[:, 0], attn_mask=BIAS[1]),
    "bool [L, L]": lambda x: attention(x, x, x, attn_mask=BELOW),
    "bool [B, 1, 1, L]": lambda x: attention(x, x, x, attn_mask=x[:, :1, :, 0].unsqueeze(2) > -0.5),
    "bool, nothing to attend to": lambda x: attention(x, x, x, attn_mask=(x[:, :1, :1, :LENGTH] > 9)),
    "float, nothing to attend to": lambda x: attention(x, x, x, attn_mask=infinite(x[:, :1, :1, :LENGTH] > 0.5)),
    "heads merged": lambda x: attention(x, x, x, attn_mask=BIAS).transpose(1, 2).contiguous().view(-1, LENGTH, 32),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return differences(FORMS, SAMPLES, tmp_path_factory.mktemp("attention"))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_attention_returns_what_torch_returns(found, form):
    assert found[form] < 1e-5


class _Merged(nn.Module):
    """Attention with a learned bias on three samples; the view of its output fails if gradients are on."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(BIAS.clone())

    def forward(self, x):
        y = attention(x, x, x, attn_mask=self.bias + torch.where(x[:, :1, :1, :LENGTH] > 0, 0.0, -1e4))
        return y.transpose(1, 2).contiguous().view(-1, LENGTH, HEADS * SIZE)


def test_a_bias_that_requires_gradients_is_translated(tmp_path):
    layers = nn.ModuleDict(
        {
            "bias": _Merged(),
            "fast": nn.Sequential(
                nn.Flatten(0, 1),
                nn.TransformerEncoderLayer(SIZE, 2, 16, batch_first=True),
                nn.Unflatten(0, (-1, HEADS)),
            ),
        }
    ).eval()
    assert max(differences(dict(layers.items()), SAMPLES, tmp_path).values()) < 1e-5

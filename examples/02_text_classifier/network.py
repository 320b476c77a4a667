"""A small transformer with an exit after each layer. Its inputs are token ids and a mask of any length."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, WIDTH, HEADS, LAYERS, CLASSES = 64, 32, 4, 3, 2
WEIGHTS = Path(__file__).parent / "weights.pt"


class Layer(nn.Module):
    """Masked self-attention and a feed-forward network, both with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, WIDTH], [B, L] bool -> [B, L, WIDTH]."""
        split = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        attended = functional.scaled_dot_product_attention(*split, attn_mask=mask[:, None, None])
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm2(x))


class TextClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)  # word order, for any length
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, CLASSES) for _ in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """[B, L] int64, [B, L] int64 (1: a token, 0: padding) -> the logits of three exits, each [B, 2]."""
        weights = mask.unsqueeze(-1).to(torch.float32)
        x = self.embedding(ids) * weights
        x = x + self.position(x.transpose(1, 2)).transpose(1, 2)
        logits = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = layer(x, mask > 0)
            mean = (x * weights).sum(1) / weights.sum(1)  # over the tokens, without the padding
            logits.append(head(mean))
        return tuple(logits)


def make() -> nn.Module:
    """Return the trained network. `edgeexit compile network.py:make` calls this function."""
    network = TextClassifier()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return network.eval()

"""A small convolutional network with three exits. No base class is needed: `forward` returns the exits in order."""

from pathlib import Path

import torch
from torch import Tensor, nn

CLASSES = 10
WEIGHTS = Path(__file__).parent / "weights.pt"


def block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def head(channels: int) -> nn.Sequential:
    """An exit: average pooling and one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, CLASSES))


class ThreeExits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(
            [
                block(1, 16, 1),
                nn.Sequential(block(16, 32, 1), block(32, 32, 1)),
                nn.Sequential(block(32, 64, 2), block(64, 64, 1), block(64, 64, 1)),
            ]
        )
        self.heads = nn.ModuleList([head(16), head(32), head(64)])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """[B, 1, 8, 8] float32 -> the logits of three exits, each [B, 10]."""
        logits = []
        for part, exit_head in zip(self.trunk, self.heads, strict=True):
            image = part(image)
            logits.append(exit_head(image))
        return tuple(logits)


def make() -> nn.Module:
    """Return the trained network. `edgeexit compile network.py:make` calls this function."""
    network = ThreeExits()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return network.eval()

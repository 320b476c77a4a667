"""A small convolutional network with three exits and fixed weights."""

from itertools import pairwise

import torch
from torch import Tensor, nn

_CLASSES = 6


class ThreeExits(nn.Module):
    """Three residual stages with decreasing resolution and an exit after each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        widths = (3, 8, 16, 32)
        self.stages = nn.ModuleList(_Stage(before, after) for before, after in pairwise(widths))
        self.heads = nn.ModuleList(nn.Linear(width, _CLASSES) for width in widths[1:])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the logits [B, 6] of all three exits for an image [B, 3, 16, 16] float32."""
        x, exits = image, []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            exits.append(8 * head(x.mean((2, 3))))
        return tuple(exits)


class _Stage(nn.Module):
    """Two convolutions with a projection shortcut; halves the resolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.norm(self.first(x)))) + self.shortcut(x))

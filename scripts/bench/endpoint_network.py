"""A small convolutional network with two exits and random weights from a fixed seed, for the endpoint's benchmark."""

import torch
from torch import Tensor, nn

WIDTH = 16
CLASSES = 10


class SmallNetwork(nn.Module):
    """Two convolutions, each with a linear classifier on its mean feature maps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.first_head = nn.Linear(WIDTH, CLASSES)
        self.second = nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1)
        self.second_head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [B, 10] of both exits for images [B, 1, H, W]."""
        features = torch.relu(self.first(image))
        deeper = torch.relu(self.second(features))
        return self.first_head(features.mean((2, 3))), self.second_head(deeper.mean((2, 3)))

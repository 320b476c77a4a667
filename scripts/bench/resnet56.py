"""ResNet-56 for CIFAR-10 with four exits, the model of the benchmarks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

EXIT_BLOCKS = (7, 14, 21)
"""Numbers of the blocks, from 1 to 27, that end with an early exit. The final exit is the classifier of ResNet-56."""
CLASSES = 10
_GRID = 4
"""Width and height of an early exit's feature maps after average pooling."""
_HEAD_WIDTH = 64


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters (option A of He et al., CVPR 2016, section 4.2)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.stride = 1 if width == out else 2
        self.widened = (out - width) // 2
        self.conv1 = nn.Conv2d(width, out, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps [B, out, H / stride, W / stride]."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.widened, self.widened))
        return torch.relu(x + y)


class Head(nn.Sequential):
    """An early exit: a convolution with stride 2, adaptive average pooling to 4 x 4, and a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, _HEAD_WIDTH, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(_HEAD_WIDTH),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(_GRID),
            nn.Flatten(),
            nn.Linear(_HEAD_WIDTH * _GRID * _GRID, CLASSES),
        )


class ResNet56(nn.Module):
    """ResNet-56 for 32x32 images, with random weights from a fixed seed.

    The parameters of the trunk have the names of the public weights (github.com/akamaster/pytorch_resnet_cifar10).
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _layer(16, 16)
        self.layer2 = _layer(16, 32)
        self.layer3 = _layer(32, 64)
        self.heads = nn.ModuleList(Head(width) for width in (16, 32, 64))
        self.linear = nn.Linear(64, CLASSES)

    def load_trunk(self, published: Mapping[str, Tensor]) -> None:
        """Load published weights into the trunk and the final exit; the early heads are unchanged."""
        trunk = {name.removeprefix("module."): value for name, value in published.items()}
        heads = {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
        self.load_state_dict(trunk | heads)

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the inputs of the exits' heads: three feature maps [B, C, H, W], then [B, 64]."""
        x = torch.relu(self.bn1(self.conv1(image)))
        early = []
        for number, block in enumerate((*self.layer1, *self.layer2, *self.layer3), start=1):
            x = block(x)
            if number in EXIT_BLOCKS:
                early.append(x)
        return (*early, x.mean((2, 3)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return four logits [B, 10] of an image [B, 3, 32, 32] float32."""
        return tuple(
            head(features) for head, features in zip((*self.heads, self.linear), self.features(image), strict=True)
        )


def _layer(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(Block(width, out), *(Block(out, out) for _ in range(8)))

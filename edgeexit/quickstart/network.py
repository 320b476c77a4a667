"""A small residual network with four exits, and its training."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.quickstart.digits import Part

_WIDTHS = (16, 32, 64, 96)
_BLOCKS = (1, 2, 2, 2)
_HEAD_CELLS = (2, 2, 2, 1)
_CLASSES = 10
_BATCH = 50
_PEAK_RATE = 4e-3
_WEIGHT_DECAY = 5e-2


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut connection."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        same = channels_in == channels_out and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """A residual network; `forward` returns the logits of its four exits, shallow to deep."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, _WIDTHS[0], 3, 2, 1)
        self.trunk, self.heads = nn.ModuleList(), nn.ModuleList()
        channels = _WIDTHS[0]
        for depth, (width, blocks, cells) in enumerate(zip(_WIDTHS, _BLOCKS, _HEAD_CELLS, strict=True)):
            first = ResidualBlock(channels, width, 1 if depth == 0 else 2)
            self.trunk.append(nn.Sequential(first, *(ResidualBlock(width, width, 1) for _ in range(blocks - 1))))
            self.heads.append(nn.Linear(width * cells * cells, _CLASSES))
            channels = width

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """[B, 1, 32, 32] -> the logits [B, 10] of each of the four exits."""
        x = functional.relu(self.stem(image))
        exits = []
        for blocks, head, cells in zip(self.trunk, self.heads, _HEAD_CELLS, strict=True):
            x = blocks(x)
            exits.append(head(functional.avg_pool2d(x, x.shape[-1] // cells).flatten(1)))
        return tuple(exits)


def train(part: Part, *, epochs: int, seed: int, progress: Progress = NO_PROGRESS) -> DigitsNet:
    """Return a network whose four exits are trained jointly; `progress` advances by one per epoch."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # a second thread is no faster with images this small, and slower on a busy machine
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)
    network = DigitsNet()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    steps = epochs * math.ceil(len(images) / _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(_BATCH):  # type: ignore[no-untyped-call]
            exits = network(_augment(images[chosen]))
            loss = torch.stack([functional.cross_entropy(logits, labels[chosen]) for logits in exits]).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        progress.advance()
    return network.eval()


def _augment(images: Tensor) -> Tensor:
    """Return the images with a random rotation, scale, shift and noise per image."""
    count = len(images)
    angle, scale = (torch.rand(count) - 0.5) * 0.3, 1 + (torch.rand(count) - 0.5) * 0.2
    move = torch.zeros(count, 2, 3)
    move[:, 0, 0] = move[:, 1, 1] = scale * angle.cos()
    move[:, 1, 0] = scale * angle.sin()
    move[:, 0, 1] = -move[:, 1, 0]
    move[:, :, 2] = (torch.rand(count, 2) - 0.5) * 0.2
    grid = functional.affine_grid(move, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return moved + 0.15 * torch.rand(count, 1, 1, 1) * torch.randn_like(moved)

"""Small multi-exit networks as users write them, with fixed weights."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two residual blocks and an exit after each; in training mode the batch norms would mix samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2)
        )
        self.heads = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x, exits = torch.relu(self.stem(image)), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = x + block(x)
            exits.append(head(x.mean((2, 3))))
        return tuple(exits)


class Dense(nn.Module):
    """Every layer reads all earlier ones; exits come as a dict, and not in the order of the alphabet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.ModuleList(nn.Linear(4 * (k + 1), 4) for k in range(3))
        self.heads = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

    def forward(self, input: Tensor) -> dict[str, Tensor]:  # noqa: A002 - a name that exporters like to change
        features, exits = [input], {}
        for name, layer, head in zip(("shallow", "middle", "deep"), self.layers, self.heads, strict=True):
            features.append(torch.tanh(layer(torch.cat(features, dim=1))))
            exits[name] = head(features[-1])
        return exits


class Masked(nn.Module):
    """Token ids and a mask of any length; both exits share one head of 24 KB."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(50, 8)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 768)

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        x, exits = self.embedding(ids), []
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask == 0)
            weights = (mask / mask.sum(1, keepdim=True)).unsqueeze(-1)
            exits.append(self.head((x * weights).sum(1)))
        return exits


class SequenceFirst(nn.Module):
    """Works on [sequence, batch, features], so that what crosses has its batch on the second axis."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.mix = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.tanh(self.mix[0](x.transpose(0, 1)))
        deeper = torch.tanh(self.mix[1](steps))
        return self.head(steps.mean(0)), self.head(deeper.mean(0))

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
    """Every layer reads all earlier ones; the exits are a dict that is not in alphabetical order."""

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
    """Computes on [sequence, batch, features], so the batch is the second axis of the carry."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.mix = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.tanh(self.mix[0](x.transpose(0, 1)))
        deeper = torch.tanh(self.mix[1](steps))
        return self.head(steps.mean(0)), self.head(deeper.mean(0))


class DenselyConnected(nn.Module):
    """Like DenseNet: every layer reads the maps of all earlier layers, so two later stages read the first map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(4 + 2 * k), nn.ReLU(), nn.Conv2d(4 + 2 * k, 2, 3, padding=1)) for k in range(4)
        )
        self.heads = nn.ModuleList(nn.Linear(4 + 2 * k, 3) for k in (2, 3, 4))

    def forward(self, image: Tensor) -> list[Tensor]:
        maps, exits = [self.stem(image)], []
        for k, layer in enumerate(self.layers):
            maps.append(layer(torch.cat(maps, 1)))
            if k:
                exits.append(self.heads[k - 1](torch.cat(maps, 1).mean((2, 3))))
        return exits


class MultiScale(nn.Module):
    """Like MSDNet: feature maps of three resolutions in every layer; the exits read the coarsest."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)

        def conv(inputs: int, stride: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(inputs, 4, 3, stride, 1), nn.BatchNorm2d(4), nn.ReLU())

        self.first = nn.ModuleList([conv(1, 1), conv(4, 2), conv(4, 2)])
        self.same = nn.ModuleList(nn.ModuleList(conv(4, 1) for _ in range(3)) for _ in range(2))
        self.down = nn.ModuleList(nn.ModuleList(conv(4, 2) for _ in range(2)) for _ in range(2))
        self.join = nn.ModuleList(nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2)) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        scales = []
        for conv in self.first:
            scales.append(conv(scales[-1] if scales else image))
        exits = [self.heads[0](scales[2].mean((2, 3)))]
        for k in range(2):
            maps = [same(x) for same, x in zip(self.same[k], scales, strict=True)]
            for k2 in range(2):
                down = self.down[k][k2](maps[k2])
                maps[k2 + 1] = self.join[k][k2](torch.cat([maps[k2 + 1], down], 1))
            scales = maps
            exits.append(self.heads[k + 1](scales[2].mean((2, 3))))
        return tuple(exits)


class Segmenter(nn.Module):
    """A U-Net with one exit per resolution, each [B, C, H, W] at full size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.down = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)])
        self.up = nn.ModuleList([nn.Conv2d(8 + 6, 6, 3, padding=1), nn.Conv2d(6 + 4, 4, 3, padding=1)])
        self.heads = nn.ModuleList([nn.Conv2d(8, 3, 1), nn.Conv2d(6, 3, 1), nn.Conv2d(4, 3, 1)])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        down = []
        for conv in self.down:
            down.append(torch.relu(conv(down[-1] if down else image)))
        x, size = down[2], image.shape[2:]
        exits = [nn.functional.interpolate(self.heads[0](x), size=size, mode="bilinear")]
        for k, conv in enumerate(self.up):
            wider = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
            x = torch.relu(conv(torch.cat([wider, down[1 - k]], 1)))
            exits.append(nn.functional.interpolate(self.heads[k + 1](x), size=size, mode="bilinear"))
        return tuple(exits)


class Recurrent(nn.Module):
    """An LSTM, then a bidirectional GRU; an exit after each, from the last step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.gru = nn.GRU(6, 6, batch_first=True, bidirectional=True)
        self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(12, 3)])

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        x, _ = self.lstm(steps)
        y, _ = self.gru(x)
        return self.heads[0](x[:, -1]), self.heads[1](y[:, -1])


class SharedTrunkOfHeads(nn.Module):
    """Heads that share a projection and a weight: the second head starts with the output of the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.stem, self.deeper, self.project = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 6)
        self.first, self.second = nn.Linear(6, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stem = torch.relu(self.stem(x))
        shallow = torch.nn.functional.gelu(self.project(stem))
        deep = torch.nn.functional.gelu(self.project(torch.relu(self.deeper(stem))))
        return self.first(shallow), self.second(torch.cat([shallow, deep], 1))


class Positions(nn.Module):
    """A transformer encoder with ids, a mask and positions counted from the mask; exits after layers 1 and 3 of 3."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(10)
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(64, 8)
        self.norm = nn.LayerNorm(8)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu") for _ in range(3)
        )
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        places = (mask.cumsum(1) - 1).clamp(min=0)
        x, exits = self.norm(self.words(ids) + self.places(places)), {}
        for k, layer in enumerate(self.layers):
            x = layer(x, src_key_padding_mask=mask == 0)
            if k != 1:
                exits[f"after_{k + 1}"] = self.heads[min(k, 1)](x[:, 0])
        return exits


class ManyOperators(nn.Module):
    """A sequence of operators that were added or changed after opset 13."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(12)
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.groups, self.instances, self.slope = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU()
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(3))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        f = nn.functional
        x = f.hardswish(self.groups(self.first(image)))
        shallow = self.heads[0](x.mean((2, 3)))
        x = f.avg_pool2d(f.pad(self.second(x), (1, 1, 0, 2), mode="reflect"), 2)
        x = f.mish(self.instances(x))
        middle = self.heads[1](x.amax((2, 3)))
        left, right = x.chunk(2, 1)
        x = torch.cat([right * torch.sigmoid(left), left], 1)
        x = self.slope(f.silu(f.interpolate(x, scale_factor=2, mode="bicubic"))).flatten(2).permute(0, 2, 1)
        x = x + f.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        x = x.topk(4, dim=1).values
        return shallow, middle, self.heads[2](f.normalize(x.std(1), dim=1))

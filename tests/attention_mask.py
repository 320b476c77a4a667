"""A network with an attention mask as a float input, and samples whose masks hold minus infinity."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """An exit before and an exit after a layer, on attention whose scores a mask is added to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(50, 16)
        self.layer = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))
        self.heads = nn.ModuleList(nn.Linear(16, 4) for _ in range(2))

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        x = self.tokens(ids)
        x = torch.softmax(x @ x.transpose(1, 2) / 4 + mask[:, None], dim=-1) @ x
        return [self.heads[0](x[:, 0]), self.heads[1](self.layer(x)[:, 0])]


def make_masked_samples() -> dict[str, npt.NDArray[np.generic]]:
    """Return 64 samples of 12 tokens, of which the first 4 to 12 are not masked."""
    mask = np.zeros((64, 12), dtype=np.float32)
    for index, row in enumerate(mask):
        row[4 + index % 9 :] = -np.inf
    return {"ids": np.random.default_rng(0).integers(0, 50, (64, 12)), "mask": mask}

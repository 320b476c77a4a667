"""Exported programs for tests, and archives of them with other contents."""

import pathlib
import zipfile

import torch
from torch import nn


class CreatesFile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


class TwoExits(nn.Module):
    """Two exits, with a constant and a constant output beside them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.heads = nn.Linear(4, 4), nn.ModuleDict({"a-1": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x, mask=None):
        y = torch.relu(self.trunk(x)) * self.scale
        deep = torch.tanh(y) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return {"exits": [self.heads["a-1"](y), self.heads["b"](deep)], "loss": None, "version": 3}


def export_two_exits(batch, count=6):
    """Export `TwoExits` with a batch dimension, traced with `count` samples."""
    return torch.export.export(TwoExits().eval(), (torch.ones(count, 4),), dynamic_shapes={"x": {0: batch}})


def rewrite(source, path, changes=None, added=None):
    """Copy an archive; `changes` is file -> function of its bytes, `added` is file -> bytes."""
    changes = changes or {}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as archive:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            change = changes.get(name.removeprefix(f"{root}/"), bytes)
            archive.writestr(name, change(old.read(name)))
        for name, content in (added or {}).items():
            archive.writestr(f"{root}/{name}", content)

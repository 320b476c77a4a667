"""A model that predicts maps, samples on which its exits differ from the final one, and a bundle with a policy."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import Task
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.datasets import Dataset
from edgeexit.fitting import MaxRisk, fit_policy
from edgeexit.policies import PolicyDocument
from edgeexit.recorded_readouts import record_readouts

EXITS, HEIGHT, WIDTH = 3, 8, 6
MAP_RISK, MAP_DELTA = 0.05, 0.1


class MapModel(nn.Module):
    """Exit k predicts one of two classes per pixel, by the sign of channel k. As `tagging`, the width is 1."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.blocks = nn.ModuleList(nn.Conv2d(EXITS, EXITS, 1, bias=False) for _ in range(EXITS))
        self.heads = nn.ModuleList(nn.Conv2d(EXITS, 2, 1, bias=False) for _ in range(EXITS))
        with torch.no_grad():
            for k, (block, head) in enumerate(zip(self.blocks, self.heads, strict=True)):
                block.weight.copy_(torch.eye(EXITS)[:, :, None, None])
                head.weight.zero_()
                head.weight[:, k, 0, 0] = torch.tensor([1.0, -1.0])

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            image = block(image)
            logits = head(image)
            found.append(logits[:, :, :, 0].transpose(1, 2) if self.task == "tagging" else logits)
        return tuple(found)


def map_samples(count: int, seed: int, task: Task, *, drift: float = 1.0) -> dict[str, npt.NDArray[np.float32]]:
    """Return inputs; the first exit differs on more pixels of weak samples, and on all the more with a higher drift."""
    rng = np.random.default_rng(seed)
    shape = (count, HEIGHT, 1 if task == "tagging" else WIDTH)
    signs = rng.choice([-1.0, 1.0], shape)
    strength = rng.uniform(0.3, 3.0, (count, 1, 1))
    differ = np.minimum(drift * 0.25 * (1 - strength / 3), 0.5)
    channels = [signs * 3]
    for k in (1, 0):
        flipped = rng.random(shape) < differ / (1 + 2 * k)
        channels.insert(0, np.where(flipped, -signs, signs) * (strength + 3 * k) / (1 + k))
    return {"image": np.stack(channels, axis=1).astype(np.float32)}


def map_bundle(folder: Path, task: Task, kind: str = "confidence") -> Bundle:
    """Return a new bundle with a policy that is certified for `MAP_RISK` on samples without drift."""
    example = map_samples(8, 0, task)
    compile_bundle(MapModel(task), folder, CompileOptions(example=example, task=task))
    bundle = Bundle.open(folder)
    dataset = record_readouts(bundle, Dataset(inputs=map_samples(1500, 1, task)), bundle.costs().cumulative)
    fit = fit_policy(kind, dataset, MaxRisk(risk=MAP_RISK, delta=MAP_DELTA))
    bundle.write_policy(
        PolicyDocument(bundle=bundle.digest, revision=0, policy=fit.policy, certificate=fit.certificate)
    )
    return bundle

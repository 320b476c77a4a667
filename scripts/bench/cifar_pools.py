"""Populations of CIFAR-10 test images in several conditions, at the exits of ResNet-56, for `drift.py`.

The early heads are trained on the features of the frozen trunk, as in `precision.py`. The images are degraded before
they are normalised.
"""

import sys
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from cifar import DEVIATION, MEAN, Images, in_batches, load_images, load_network, open_archive
from drift_pools import World, hard_labels, with_coarse_weights
from precision import train_heads
from resnet56 import EXIT_BLOCKS, ResNet56
from scipy import ndimage
from torch import nn

from edgeexit.fitting import ReadoutDataset
from edgeexit.policies.readout import Array

_TRAIN: Final = 4000
_BOARD_BITS: Final = 4


class Condition(NamedTuple):
    """How images are degraded. Pixels are from 0 to 1."""

    noise: float = 0.0
    """Standard deviation of Gaussian noise."""
    blur: float = 0.0
    """Standard deviation of a Gaussian filter, in pixels."""
    light: float = 1.0
    """Factor of the brightness."""

    def apply(self, images: npt.NDArray[np.float32], *, seed: int) -> npt.NDArray[np.float32]:
        """Return normalised images [N, 3, 32, 32] after degradation."""
        pixels = self.light * ndimage.gaussian_filter(images * DEVIATION + MEAN, (0, 0, self.blur, self.blur))
        pixels += self.noise * np.random.default_rng(seed).standard_normal(images.shape, dtype=np.float32)
        return np.asarray((np.clip(pixels, 0, 1) - MEAN) / DEVIATION, dtype=np.float32)


CONDITIONS: Final = {
    "easy": Condition(),
    "hard": Condition(noise=0.06, blur=0.3),
    "broken": Condition(noise=0.15, light=0.4),
    "board": Condition(noise=0.03),
}


def cifar_world(cifar: Path, weights: Path, *, samples: int) -> World:
    """Return the populations of `samples` test images; the files are those of `precision.py`."""
    torch.set_num_threads(1)
    archive = open_archive(cifar)
    network = load_network(weights)
    print("training the early heads of ResNet-56", file=sys.stderr)
    train_heads(network, load_images(archive, "train", 0, _TRAIN))
    costs = relative_macs(network.eval())
    board = with_coarse_weights(network, bits=_BOARD_BITS)
    test = load_images(archive, "test", 0, samples)
    pools = {}
    for seed, (name, condition) in enumerate(CONDITIONS.items()):
        print(f"recording the images of {name}", file=sys.stderr)
        pools[name] = _recorded(board if name == "board" else network, test, condition, costs, seed=seed)
    return World("cifar", costs, {**pools, "shifted": pools["easy"][hard_labels(pools["easy"], test.labels)]})


def _recorded(
    network: nn.Module, images: Images, condition: Condition, costs: tuple[float, ...], *, seed: int
) -> Array:
    exits = in_batches(network, condition.apply(images.image, seed=seed))
    return ReadoutDataset.from_logits(torch.stack(exits, dim=1).numpy(), costs=costs).readouts


def relative_macs(network: ResNet56) -> tuple[float, ...]:
    """Return the cumulative multiply-accumulates [K] of the exits, early heads included, relative to the last one."""
    macs: dict[str, int] = {}

    def counted(name: str, layer: nn.Conv2d | nn.Linear) -> None:
        def count(_: nn.Module, __: object, output: torch.Tensor) -> None:
            macs[name] = output[0].numel() * layer.weight[0].numel()

        hooks.append(layer.register_forward_hook(count))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            counted(name, layer)
    with torch.inference_mode():
        network(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    blocks = [f"layer{layer}.{block}." for layer in (1, 2, 3) for block in range(9)]
    totals, cut = [], 0
    for head, end in enumerate((*EXIT_BLOCKS, len(blocks))):
        own = ("conv1", *blocks[cut:end]) if head == 0 else tuple(blocks[cut:end])
        exit_name = "linear" if end == len(blocks) else f"heads.{head}."
        totals.append(sum(count for name, count in macs.items() if name.startswith((*own, exit_name))))
        cut = end
    sums = np.cumsum(totals)
    return tuple((sums / sums[-1]).tolist())

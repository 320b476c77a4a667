"""Loads CIFAR-10 and the ResNet-56 with public weights for the benchmarks."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from resnet56 import ResNet56
from torch import Tensor

BATCH = 100
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]


class Images(NamedTuple):
    """A part of CIFAR-10."""

    image: npt.NDArray[np.float32]
    """[N, 3, 32, 32], normalised."""
    labels: npt.NDArray[np.int64]
    """[N]"""


def open_archive(cifar: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz file that holds CIFAR-10 as JPEG files.

    They are `train_jpeg` (uint8, all files concatenated), `train_offset` [N + 1] and `train_label` [N], and the same
    for `test`.
    """
    return dict(np.load(cifar, allow_pickle=False))


def load_images(archive: Mapping[str, npt.NDArray[Any]], split: str, first: int, count: int) -> Images:
    """Decode `count` images of a split (`train` or `test`), starting with number `first`."""
    try:
        from PIL import Image  # noqa: PLC0415 - only this function needs it
    except ModuleNotFoundError as error:
        message = "reading the JPEG images needs pillow, which is not installed; run: pip install pillow"
        raise SystemExit(message) from error
    offsets, files = archive[f"{split}_offset"], archive[f"{split}_jpeg"].tobytes()
    pixels = []
    for number in range(first, first + count):
        file = io.BytesIO(files[offsets[number] : offsets[number + 1]])
        pixels.append(np.asarray(Image.open(file).convert("RGB")))
    images = np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255
    return Images((images - MEAN) / DEVIATION, archive[f"{split}_label"][first : first + count].astype(np.int64))


def load_network(weights: Path) -> ResNet56:
    """Return the network in evaluation mode: public weights for trunk and final exit, untrained early heads."""
    network = ResNet56()
    network.load_trunk(torch.load(weights, weights_only=True, map_location="cpu")["state_dict"])
    network.eval()
    return network


def in_batches(run: Callable[[Tensor], Sequence[Tensor]], images: npt.NDArray[np.float32]) -> list[Tensor]:
    """Return the tensors that `run` computes from images [N, 3, 32, 32], in batches, for all N."""
    with torch.no_grad():
        batches = [run(torch.from_numpy(images[k : k + BATCH])) for k in range(0, len(images), BATCH)]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]

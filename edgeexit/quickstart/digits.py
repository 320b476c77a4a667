"""The digits of scikit-learn as 32x32 images, in four disjoint parts, and their degradation for the drift demo."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]

SIZE = 32
_TRAIN, _HELD_OUT, _TEST = 800, 500, 250


class Part(NamedTuple):
    """Images [N, 1, 32, 32] float32 from 0 to 1, and labels [N] int64."""

    images: Images
    labels: npt.NDArray[np.int64]


class Digits(NamedTuple):
    """The four parts of the data set."""

    train: Part
    held_out: Part
    test: Part
    stream: Part


def load_digits(seed: int) -> Digits:
    """Return the 1797 digits of scikit-learn, shuffled with `seed`, upscaled, and split into the four parts."""
    from sklearn import datasets  # noqa: PLC0415 - an optional dependency

    bunch = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.images))
    images = _upscale(bunch.images[order].astype(np.float32) / 16)
    labels = bunch.target[order].astype(np.int64)
    cuts = (0, *np.cumsum([_TRAIN, _HELD_OUT, _TEST]), len(images))
    parts = [Part(images[a:b], labels[a:b]) for a, b in pairwise(cuts)]
    return Digits(*parts)


def degrade(part: Part, *, noise: float, contrast: float, seed: int) -> Part:
    """Return the part with less contrast around grey 0.3 and with Gaussian noise, as a failing camera gives."""
    grey = 0.3
    random = np.random.default_rng(seed).standard_normal(part.images.shape, dtype=np.float32)
    images = contrast * part.images + (1 - contrast) * grey + noise * random
    return Part(np.clip(images, 0, 1).astype(np.float32), part.labels)


def _upscale(images: Images) -> Images:
    """Return images [N, 8, 8] upscaled to [N, 1, 32, 32] by bilinear interpolation."""
    from scipy import ndimage  # noqa: PLC0415 - an optional dependency

    zoom = SIZE / images.shape[-1]
    larger = ndimage.zoom(images, (1, zoom, zoom), order=1, grid_mode=True, mode="nearest")
    return np.ascontiguousarray(np.clip(larger, 0, 1)[:, None], dtype=np.float32)

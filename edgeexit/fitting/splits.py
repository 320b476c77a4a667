"""Random splits of the samples: two halves, or the choosing and the certifying samples."""

import numpy as np

from edgeexit.fitting.readout_dataset import Indices


def halves(samples: int, seed: int) -> tuple[Indices, Indices]:
    """Return the indices of two random halves, which `seed` determines; the second has the odd sample."""
    order = np.random.default_rng(seed).permutation(samples)
    return order[: samples // 2], order[samples // 2 :]


def choosing_and_certifying(samples: int, seed: int) -> tuple[Indices, Indices]:
    """Return the indices of the choosing samples, a random third that `seed` determines, and of the certifying samples.

    A bound on few samples is wide, and a path through few samples is nearly as good as one through more. So most
    samples certify.
    """
    order = np.random.default_rng(seed).permutation(samples)
    return order[: samples // 3], order[samples // 3 :]

"""Random scores and losses of three exits."""

import numpy as np

COSTS3 = np.array([1.0, 1.7, 3.0])


def drawn(seed: int, samples: int = 80, *, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores and losses [N, 3]; `levels`: integer scores with many ties, some of them negative."""
    random = np.random.default_rng(seed)
    scores = random.random((samples, 3)).astype(np.float32)
    losses = (random.random((samples, 3)) > 0.4 + 0.5 * scores).astype(np.float64)
    return (scores if levels is None else np.floor(scores * levels) - 1), losses

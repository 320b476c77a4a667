"""Readouts in float64, computed from their definitions."""

import numpy as np


def read_out(logits):
    """Return top-1 class, its probability, the second highest one, the entropy, and all probabilities [..., 4 + C]."""
    shifted = np.asarray(logits, dtype=np.float64)
    exponents = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    p = exponents / exponents.sum(axis=-1, keepdims=True)
    top = np.sort(p, axis=-1)
    entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=-1)
    return np.concatenate([np.stack([p.argmax(axis=-1), top[..., -1], top[..., -2], entropy], axis=-1), p], axis=-1)

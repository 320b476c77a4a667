"""Readouts that no softmax over C classes has are found; those of every softmax, and of every average of them, pass."""

import numpy as np
import pytest
import torch
from edgeexit_calibration.ingest.readout_bounds import MAX_CLASSES, find_faults
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.runtime import Runner

CLASSES = st.sampled_from([2, 3, 4, 10, 1000])


def readouts_of(logits):
    """Return the readouts [..., 4] of logits [..., C] in float64."""
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    top = np.sort(p, axis=-1)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)
    return np.stack([p.argmax(axis=-1), top[..., -1], top[..., -2], entropy], axis=-1)


def logits_of(seed, shape):
    """Return logits of all kinds: confident, unsure, with equal ones, and beyond the range of exp in float32."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal(shape) * random.choice([0, 0.1, 1, 5, 30, 200], (*shape[:-1], 1))
    some = random.random(shape) < random.choice([0, 0.1, 0.5], (*shape[:-1], 1))
    return np.where(some, logits.max(axis=-1, keepdims=True), logits)


def faults(readouts, classes):
    """Return the faults of one audit per sample [N, K, 4]."""
    samples = len(readouts)
    return find_faults(np.asarray(readouts, np.float32), np.full(samples, classes), np.arange(samples))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=CLASSES, precision=st.sampled_from([np.float32, np.float16]))
def test_every_softmax_passes(seed, classes, precision):
    readouts = readouts_of(logits_of(seed, (20, 2, classes))).astype(precision)
    assert faults(readouts, classes) == {}
    assert faults(readouts, MAX_CLASSES) == {}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=CLASSES, pixels=st.integers(2, 40))
def test_every_average_over_pixels_passes(seed, classes, pixels):
    readouts = readouts_of(logits_of(seed, (4, 2, pixels, classes))).mean(axis=2)
    readouts[..., 0] = 1
    assert faults(readouts, classes) == {}
    assert faults(readouts, MAX_CLASSES) == {}


class Maps(nn.Module):
    """Two exits with a map of classes each: [B, 3, H, W], or [B, H, 3] for tagging."""

    def __init__(self, *, of_tokens):
        super().__init__()
        torch.manual_seed(3)
        self.of_tokens = of_tokens
        self.blocks = nn.ModuleList(nn.Conv2d(1 if k == 0 else 4, 4, 3, padding=1) for k in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(4, 3, 1) for _ in range(2))

    def forward(self, image):
        found = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            image = torch.relu(block(image))
            logits = 6 * head(image)
            found.append(logits.mean(dim=3).transpose(1, 2) if self.of_tokens else logits)
        return tuple(found)


@pytest.mark.parametrize("task", ["segmentation", "tagging"])
def test_the_readouts_of_a_model_with_maps_pass(tmp_path, task):
    images = 3 * np.random.default_rng(1).standard_normal((40, 1, 6, 5)).astype(np.float32)
    options = CompileOptions(example={"image": images}, task=task)
    with Runner(compile_bundle(Maps(of_tokens=task == "tagging"), tmp_path / "maps", options)) as runner:
        readouts = runner.infer_every_exit({"image": images}, temperatures=(0.5, 2.0)).readouts
    assert len(np.unique(readouts[:, :, 1])) > len(images)  # they differ, so the bounds are tried
    assert faults(readouts, 3) == {}


FOUR = {"top1": 1, "p1": 0.6, "p2": 0.2, "entropy": 1.0}


@pytest.mark.parametrize(
    ("lie", "classes", "reason"),
    [
        ({"top1": 4}, 4, "class 4, but the model has 4 classes"),
        ({"p1": 0.2, "p2": 0.2}, 4, "p1 0.2 is the highest probability of 4 classes, so it is at least 0.25"),
        ({"p1": 0.3, "p2": 0.5}, None, "p2 0.5 is above p1 0.3"),
        ({"p1": 0.9, "p2": 0.2}, None, "p1 0.9 and p2 0.2 have a sum above 1"),
        ({"p1": 0.6, "p2": 0.1}, 4, "p2 0.1 is impossible with p1 0.6 of 4 classes; at least 0.13"),
        ({"p1": 0.9, "p2": 0.0}, 4, "p2 0 is impossible with p1 0.9 of 4 classes; at least 0.03"),
        ({"entropy": 0.6}, None, "entropy 0.6 is impossible with p1 0.6 and p2 0.2; at least"),
        ({"entropy": 1.2}, 4, "entropy 1.2 is impossible with p1 0.6 and p2 0.2 of 4 classes; at most"),
        ({"p1": 1.0, "p2": 0.0, "entropy": 0.2}, None, "entropy 0.2 is impossible with p1 1 and p2 0; at most"),
        ({"p1": 0.5, "p2": 0.0, "entropy": 0.7}, None, "entropy 0.7 is impossible with p1 0.5 and p2 0; at least"),
    ],
)
def test_a_readout_that_no_softmax_has_is_found_with_the_reason(lie, classes, reason):
    honest = [FOUR[name] for name in ("top1", "p1", "p2", "entropy")]
    forged = [(FOUR | lie)[name] for name in ("top1", "p1", "p2", "entropy")]
    samples = np.array([[honest] * 3] * 2 + [[honest, honest, forged]] * 2 + [[honest] * 3], np.float32)
    found = find_faults(samples, np.full(5, classes or MAX_CLASSES), np.array([0, 1, 4]))
    assert list(found) == [1]  # the second audit has the samples 1 to 3
    assert found[1].sample == 1
    assert found[1].reason.startswith(f"exit 2: {reason}")


@given(p1=st.floats(0.02, 1), fraction=st.floats(0, 1))
def test_the_bounds_of_the_entropy_are_those_of_distributions(p1, fraction):
    """The highest entropy is that of equal rests; a uniform distribution and one of two classes have the lowest."""
    classes = 50
    lowest = max((1 - p1) / (classes - 1), 0)
    p2 = lowest + fraction * (min(p1, 1 - p1) - lowest)
    rest = (1 - p1 - p2) / (classes - 2)
    p = np.array([p1, p2, *[max(rest, 0)] * (classes - 2)])
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    assert faults([[[0, p1, p2, entropy]]], classes) == {}
    assert faults([[[0, p1, p2, entropy + 0.15]]], classes) != {}
    for count in (2, 7, 50):
        uniform = [0, 1 / count, 1 / count, np.log(count)]
        assert faults([[uniform]], classes) == {}
        assert faults([[[*uniform[:3], uniform[3] - 0.15]]], classes) != {}

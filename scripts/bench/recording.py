"""Records the logits of a fine-tuned, compiled ResNet-56 on CIFAR-10, or reads them from a file."""

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cifar import load_images, load_network, open_archive
from training import EPOCHS, fine_tune

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.datasets import Dataset
from edgeexit.files import write_atomic
from edgeexit.fitting import ReadoutDataset
from edgeexit.policies.readout import TOP1
from edgeexit.runtime import Runner, record

_TRAIN, _HELD_OUT, _TEST = 28_000, 2_000, 10_000


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """Logits of held-out training images and of test images."""

    held_out: ReadoutDataset
    """Images of the train part that were not used for fine-tuning."""
    test: ReadoutDataset
    training_seconds: float
    """Duration of the fine-tuning, on the machine that ran it."""


def record_exits(cifar: Path, weights: Path, cache: Path | None) -> Recorded:
    """Train, compile and record, or read the result of an earlier run from `cache`."""
    if cache is not None and cache.exists():
        with np.load(cache, allow_pickle=False) as cached:
            return _recorded(dict(cached))
    archive = open_archive(cifar)
    network = load_network(weights)
    started = time.perf_counter()
    fine_tune(network, load_images(archive, "train", 0, _TRAIN))
    took = time.perf_counter() - started
    print(f"fine-tuned for {EPOCHS} epochs in {took:.0f} s", file=sys.stderr)
    parts = {"held_out": ("train", _TRAIN, _HELD_OUT), "test": ("test", 0, _TEST)}
    arrays: dict[str, Any] = {"training_seconds": np.array(took)}
    with tempfile.TemporaryDirectory() as folder:
        bundle = compile_bundle(network, Path(folder) / "bundle", CompileOptions(inputs=("image:batch,3,32,32",)))
        # Operation counts, because they are the same on every machine.
        arrays["costs"] = np.array(bundle.manifest.macs, dtype=np.float64)
        with Runner(bundle) as runner:
            for name, (split, first, count) in parts.items():
                images = load_images(archive, split, first, count)
                recording = record(runner, Dataset(inputs={"image": images.image}), all_classes=True)
                arrays[f"{name}_labels"] = images.labels
                arrays[f"{name}_logits"] = recording.logits
    if cache is not None:
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_atomic(cache, content.getvalue())
    return _recorded(arrays)


def exit_accuracies(dataset: ReadoutDataset) -> list[float]:
    """Return the accuracy [K] of each exit on all samples."""
    return [float(fraction) for fraction in (dataset.readouts[:, :, TOP1] == dataset.truth[:, None]).mean(axis=0)]


def _recorded(arrays: dict[str, Any]) -> Recorded:
    costs = np.asarray(arrays["costs"], dtype=np.float64)
    relative = tuple(float(cost) for cost in costs / costs[-1])
    held_out, test = (
        ReadoutDataset.from_logits(
            arrays[f"{name}_logits"], costs=relative, labels=arrays[f"{name}_labels"].astype(np.int64)
        )
        for name in ("held_out", "test")
    )
    return Recorded(held_out=held_out, test=test, training_seconds=float(arrays["training_seconds"]))

"""Measures accuracy and latency per precision: ResNet-56 with four exits on CIFAR-10, in fp32, fp16 and int8.

    python scripts/bench/precision.py --cifar FILE.npz --weights FILE.th [--target NAME] [--json]

FILE.npz holds CIFAR-10 as JPEG files: `train_jpeg` (uint8, all files concatenated), `train_offset` [N + 1] and
`train_label` [N], and the same for `test`. FILE.th holds the public weights of
github.com/akamaster/pytorch_resnet_cifar10 (`pretrained_models/resnet56`). Only the early heads are trained, with a
fixed seed. The last rows have all heads in fp32. Latencies are measured on this machine, one sample at a time, with the
precisions in alternation. The columns `torch` and `bundle` are accuracies, `agrees` is the fraction of
predictions of the bundle that equal those of torch. `p50 / fp32` is the p50 relative to that of fp32: median over the
rounds, with minimum and maximum.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cifar import BATCH, Images, in_batches, load_images, load_network, open_archive
from resnet56 import ResNet56
from torch.nn import functional

from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import Precision
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.datasets import LABELS
from edgeexit.runtime import Runner

_HEADS = ("heads.*", "linear.*")
_VARIANTS: dict[str, tuple[Precision, tuple[str, ...]]] = {
    "fp32": ("fp32", ()),
    "fp16": ("fp16", ()),
    "int8": ("int8", ()),
    "int8, heads fp32": ("int8", _HEADS),
}
_TRAIN, _CALIBRATION, _TEST = 4000, 512, 2000
_EPOCHS = 30
_ROUNDS, _TURNS = 10, 100


def train_heads(network: ResNet56, data: Images) -> None:
    """Train the early heads on the features of the frozen trunk."""
    features = in_batches(network.features, data.image)
    labels = torch.from_numpy(data.labels)
    torch.manual_seed(0)
    for head, inputs in zip(network.heads, features, strict=False):
        head.train()
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-2)
        for _ in range(_EPOCHS):
            for chosen in torch.randperm(len(inputs)).split(BATCH):
                optimiser.zero_grad()
                functional.cross_entropy(head(inputs[chosen]), labels[chosen]).backward()
                optimiser.step()
        head.eval()


def predictions_of(bundle: Bundle, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.int64]]:
    """Return exit name -> predictions [N] of the bundle's stages."""
    with Runner(bundle) as runner:
        outputs = [
            runner.infer_every_exit({"image": images[first : first + BATCH]}).outputs
            for first in range(0, len(images), BATCH)
        ]
    return {name: np.concatenate([some[name] for some in outputs]).argmax(axis=1) for name in bundle.manifest.exits}


def relative_latencies(bundles: Mapping[str, Bundle], images: npt.NDArray[np.float32]) -> dict[str, list[list[float]]]:
    """Return, for every bundle and stage, the median, minimum and maximum of p50 / p50 of the first bundle."""
    singles = [{"image": images[k : k + 1]} for k in range(_TURNS)]
    p50: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in bundles}
    with ExitStack() as stack:
        runners = {name: stack.enter_context(Runner(bundle)) for name, bundle in bundles.items()}
        for turn in range(_ROUNDS + 1):
            for name, runner in runners.items():
                stage_ms = np.array([runner.infer_every_exit(one).stage_ms for one in singles])
                if turn:  # the first round warms up
                    p50[name].append(np.median(stage_ms, axis=0))
    first = np.array(p50[next(iter(bundles))])
    return {
        name: [[float(pick(column)) for pick in (np.median, np.min, np.max)] for column in (np.array(rows) / first).T]
        for name, rows in p50.items()
    }


def measure(cifar: Path, weights: Path, target: str | None, folder: Path) -> dict[str, Any]:
    """Train, compile every variant, and return the results of each."""
    archive = open_archive(cifar)
    network = load_network(weights)
    train_heads(network, load_images(archive, "train", 0, _TRAIN))
    calibration = load_images(archive, "train", _TRAIN, _CALIBRATION)
    test = load_images(archive, "test", 0, _TEST)
    torch_predictions = [logits.numpy().argmax(axis=1) for logits in in_batches(network, test.image)]

    bundles, figures = {}, {}
    for name, (precision, fp32_nodes) in _VARIANTS.items():
        started = time.perf_counter()
        bundle = compile_bundle(
            network,
            folder / name.replace(" ", "").replace(",", "-"),
            CompileOptions(
                target=target,
                inputs=("image:batch,3,32,32",),
                calibration=calibration._asdict() | {LABELS: calibration.labels},
                precision=precision,
                keep_fp32=fp32_nodes,
            ),
        )
        took = time.perf_counter() - started
        predictions = predictions_of(bundle, test.image)
        manifest = bundle.manifest
        bundles[name] = bundle
        figures[name] = {
            "compile_seconds": took,
            "bundle_bytes": sum(file.stat().st_size for file in bundle.path.iterdir()),
            "carry_bytes_per_sample": [
                sum(tensor.bytes_per_sample or 0 for tensor in manifest.live_after(stage))
                for stage in range(len(manifest.stages) - 1)
            ],
            "accuracy_torch": [float((prediction == test.labels).mean()) for prediction in torch_predictions],
            "accuracy": [float((prediction == test.labels).mean()) for prediction in predictions.values()],
            "agreement_with_torch": [
                float((prediction == expected).mean())
                for prediction, expected in zip(predictions.values(), torch_predictions, strict=True)
            ],
        }
    for name, ratios in relative_latencies(bundles, test.image).items():
        figures[name]["p50_relative_to_fp32"] = ratios
    return figures


def _print_table(figures: Mapping[str, Any]) -> None:
    print(f"{_TEST} test images; heads trained on {_TRAIN}, calibrated on {_CALIBRATION} others")
    print(
        f"{'':<18}{'exit':>5}{'torch':>8}{'bundle':>9}{'agrees':>8}{'carry, B':>10}{'p50 / fp32 (range)':>24}"
        f"{'bundle, B':>12}{'compile':>9}"
    )
    for name, row in figures.items():
        carry = [*row["carry_bytes_per_sample"], 0]
        for k, (median, low, high) in enumerate(row["p50_relative_to_fp32"]):
            totals = f"{row['bundle_bytes']:>12,}{row['compile_seconds']:>7.1f} s" if k == 0 else ""
            print(
                f"{name if k == 0 else '':<18}{k:>5}{row['accuracy_torch'][k]:>8.1%}{row['accuracy'][k]:>9.1%}"
                f"{row['agreement_with_torch'][k]:>8.1%}{carry[k]:>10,}{f'{median:.2f} ({low:.2f} to {high:.2f})':>24}"
                f"{totals}"
            )


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cifar", type=Path, required=True, help="CIFAR-10 as JPEG files, .npz")
    arguments.add_argument("--weights", type=Path, required=True, help="public ResNet-56 weights, .th")
    arguments.add_argument("--target", help="device kind to compile for; default: the generic target of this machine")
    arguments.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(given.cifar, given.weights, given.target, Path(folder))
    if given.json:
        print(json.dumps(figures, indent=2))
    else:
        _print_table(figures)


if __name__ == "__main__":
    main()

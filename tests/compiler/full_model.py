"""Compares the composed stages of a bundle with the full model, at several batch sizes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from edgeexit.bundle import Bundle
from edgeexit.datasets import Inputs
from tests.compiler.staged_run import run_stages

FullModel = Callable[[Inputs], Sequence[npt.NDArray[Any]]]
"""Runs a model that was not split: inputs -> logits of all exits, shallow to deep."""

BATCHES = (1, 2, 5)
"""Batch sizes of the comparison; `samples` must have at least five samples."""


def file_as_full_model(path: Path, exits: Sequence[str]) -> FullModel:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {value.name for value in session.get_inputs()}
    return lambda batch: session.run(list(exits), {name: batch[name] for name in inputs})


def module_as_full_model(module: torch.nn.Module) -> FullModel:
    def run(batch: Inputs) -> list[npt.NDArray[Any]]:
        with torch.no_grad():
            returned = module.eval()(**{name: torch.from_numpy(array) for name, array in batch.items()})
        return [value.numpy() for value in (returned.values() if isinstance(returned, dict) else returned)]

    return run


def assert_composed(bundle: Bundle, full_model: FullModel, samples: Inputs, tolerance: float = 1e-4) -> None:
    """Assert that the composed stages return the logits of the full model on the first 1, 2 and 5 samples."""
    for count in BATCHES:
        batch = {name: array[:count] for name, array in samples.items()}
        found = run_stages(bundle, batch)
        for name, expected in zip(bundle.manifest.exits, full_model(batch), strict=True):
            np.testing.assert_allclose(found[name], expected, atol=tolerance, rtol=tolerance)


def assert_file_composed(bundle: Bundle, path: Path, samples: Inputs) -> None:
    assert_composed(bundle, file_as_full_model(path, bundle.manifest.exits), samples)


def carried(bundle: Bundle) -> list[list[str]]:
    """Return the names of the carries of each stage."""
    return [[tensor.name for tensor in stage.carry_out] for stage in bundle.manifest.stages]


def bytes_carried(bundle: Bundle) -> list[int | None]:
    """Return the bytes per sample of the carries that each stage reads; None if a dimension is symbolic."""
    size = {tensor.name: tensor.bytes_per_sample for stage in bundle.manifest.stages for tensor in stage.carry_out}
    return [
        None if any(size[name] is None for name in stage.carry_in) else sum(size[name] or 0 for name in stage.carry_in)
        for stage in bundle.manifest.stages
    ]

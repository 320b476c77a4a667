"""Compares a bundle's composed stages with the whole model that it was compiled from, at several batch sizes."""

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
"""Inputs -> the answers of all exits, shallow to deep."""

BATCHES = (1, 2, 5)


def file_as_whole(path: Path, exits: Sequence[str]) -> FullModel:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {value.name for value in session.get_inputs()}
    return lambda batch: session.run(list(exits), {name: batch[name] for name in inputs})


def module_as_whole(module: torch.nn.Module) -> FullModel:
    def answer(batch: Inputs) -> list[npt.NDArray[Any]]:
        with torch.no_grad():
            returned = module.eval()(**{name: torch.from_numpy(array) for name, array in batch.items()})
        return [value.numpy() for value in (returned.values() if isinstance(returned, dict) else returned)]

    return answer


def assert_composed(bundle: Bundle, whole: FullModel, samples: Inputs, tolerance: float = 1e-4) -> None:
    """Every exit of the composed stages is the whole model's, on the first 1, 2 and 5 samples."""
    for count in BATCHES:
        batch = {name: array[:count] for name, array in samples.items()}
        found = run_stages(bundle, batch)
        for name, expected in zip(bundle.manifest.exits, whole(batch), strict=True):
            np.testing.assert_allclose(found[name], expected, atol=tolerance, rtol=tolerance)


def assert_file_composed(bundle: Bundle, path: Path, samples: Inputs) -> None:
    assert_composed(bundle, file_as_whole(path, bundle.manifest.exits), samples)


def carried(bundle: Bundle) -> list[list[str]]:
    """Return the names of what each stage hands on."""
    return [[tensor.name for tensor in stage.carry_out] for stage in bundle.manifest.stages]


def bytes_carried(bundle: Bundle) -> list[int | None]:
    """Return the bytes a sample that are read by each stage, None where a dimension is known only at run time."""
    size = {tensor.name: tensor.bytes_per_sample for stage in bundle.manifest.stages for tensor in stage.carry_out}
    return [
        None if any(size[name] is None for name in stage.carry_in) else sum(size[name] or 0 for name in stage.carry_in)
        for stage in bundle.manifest.stages
    ]

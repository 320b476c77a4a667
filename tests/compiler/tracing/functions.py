"""Exports several functions of one input at once, and compares each of them with torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import nn

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.torch_module.exit_module import ExitModule
from edgeexit.compiler.tracing.torch_export import export_module, to_onnx

BATCHES = (1, 2, 3, 5)


class Functions(nn.Module):
    """Returns a dict with the value of each function at the input."""

    def __init__(self, functions: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]):
        super().__init__()
        self.functions = dict(functions)

    def forward(self, x):
        return {name: function(x) for name, function in self.functions.items()}


def as_exit_module(module: nn.Module, shape: Sequence[int | str], exits: Sequence[str]) -> ExitModule:
    return ExitModule(module.eval(), (TensorSpec(name="x", dtype="float32", shape=("batch", *shape)),), exits)


def differences(functions: Mapping[str, Callable], samples: torch.Tensor, folder: Path) -> dict[str, float]:
    """Export the functions by torch.export; return the largest difference of each from torch, over `BATCHES`."""
    module = as_exit_module(Functions(functions), samples.shape[1:], list(functions))
    model = to_onnx(export_module(module, module.inputs, {"x": samples.numpy()}), opset=18)
    ir.save(model, folder / "model.onnx")
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(functions, 0.0)
    for count in BATCHES:
        with torch.no_grad():
            expected = module(samples[:count])
        found = session.run(None, {session.get_inputs()[0].name: samples[:count].numpy()})
        for name, one, other in zip(functions, found, expected, strict=True):
            assert one.shape == other.shape, (name, count)
            difference = np.abs(one.astype(np.float64) - other.numpy().astype(np.float64)).max()
            largest[name] = max(largest[name], float(difference))
    return largest

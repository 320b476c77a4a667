"""Models and ONNX Runtime runs for the tests of precision."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor, nn

from edgeexit.compiler.normalise import normalise
from edgeexit.datasets import Inputs
from tests.compiler.graphs import save_graph


def read_text(folder: Path, text: str, **weights) -> ir.Model:
    """Return a normalised model from ONNX's text format."""
    model = ir.load(save_graph(folder / "text.onnx", text, **weights))
    normalise(model, exits=[str(value.name) for value in model.graph.outputs])
    return model


def outputs_of(model: ir.Model, inputs: Inputs, folder: Path) -> dict[str, np.ndarray]:
    """Check a model and return its outputs from ONNX Runtime."""
    path = folder / "model.onnx"
    ir.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def nodes_of(model: ir.Model, op: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == op]


def float_types(model: ir.Model) -> set[str]:
    """Return the float types of the outputs of the main graph's nodes."""
    types = {value.dtype for node in model.graph for value in node.outputs}
    return {dtype.name for dtype in types if dtype in {ir.DataType.FLOAT, ir.DataType.FLOAT16}}


class Segmenter(nn.Module):
    """Residual and depthwise convolutions with batch norms, a resize, and two kinds of transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 1)
        )
        self.deeper = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.ModuleList([nn.ConvTranspose2d(8, 5, 2, 2), nn.ConvTranspose2d(8, 5, 2, 2, bias=False)])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(image)
        x = torch.relu(x + self.depthwise(x))
        y = nn.functional.max_pool2d(x + self.deeper(x), 2)
        y = nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear")
        return self.heads[0](x), self.heads[1](y)


class Encoder(nn.Module):
    """Token ids with positions, a mask that adds the smallest float32, and an exit after each of two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.positions = nn.Embedding(50, 16), nn.Embedding(32, 16)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu") for _ in range(2)
        )
        self.heads = nn.ModuleList(nn.Linear(16, 4) for _ in range(2))

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        length, exits = ids.shape[1], []
        x = self.tokens(ids) + self.positions(torch.arange(length))
        bias = (1 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        bias = bias.expand(-1, 2, length, -1).reshape(-1, length, length)
        weights = mask.float().unsqueeze(-1)
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = layer(x, src_mask=bias)
            exits.append(head((x * weights).sum(1) / weights.sum(1)))
        return exits

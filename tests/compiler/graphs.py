"""Handmade ONNX files: the graphs that exporters write and splitting gets wrong."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

BRANCH = """
<ir_version: 9, opset_import: ["": 18, "local": 1]>
g (float[N,L,4] x, float[N,L,1] gate) => (float[N,3] e0, float[N,3] e1) {
  h = local.Block(x, w)
  axis = Constant<value_ints = [1]>()
  e0_pooled = ReduceMean<keepdims = 0>(h, axis)
  e0 = MatMul(e0_pooled, head)
  length = Shape<start = 1, end = 2>(h)
  three = Constant<value_ints = [3]>()
  long = Greater(length, three)
  y = If (long) <
    then_branch = yes () => (float[N,L,4] t) {
      u = If (long) <
        then_branch = inner () => (float[N,L,4] v) { k = Relu(h) v = Mul(k, deep) },
        else_branch = other () => (float[N,L,4] v2) { v2 = Relu(h) }>
      t = Add(u, gate)
    },
    else_branch = no () => (float[N,L,4] f) { f = Mul(h, x) }>
  e1_pooled = ReduceMean<keepdims = 0>(y, axis)
  e1 = MatMul(e1_pooled, head)
}
<domain: "local", opset_import: ["": 18]>
Block (a, b) => (c) { d = MatMul(a, b) c = Relu(d) }
"""
"""A function, and an If that captures two inputs, a weight and an earlier stage's value, at two depths."""

SHAPES = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  wide = Expand(h, sizes)
  pooled = ReduceMean<keepdims = 0>(wide, axis)
  e0 = MatMul(pooled, head0)
  small = Relu(pooled)
  shape = Shape(wide)
  batch = Gather(shape, one)
  rest = Gather(shape, two)
  both = Concat<axis = 0>(batch, rest)
  y = Reshape(small, both)
  e1 = MatMul(y, head1)
}
"""
"""Exit 1 needs the shape, and nothing else, of a tensor [64, N, 8] of the first stage."""

QUANTISED = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  q = QuantizeLinear(h, scale, zero)
  d = DequantizeLinear(q, scale, zero)
  e0 = MatMul(d, head0)
  r = Relu(d)
  e1 = MatMul(r, head1)
}
"""
"""What crosses is int8."""

REUSED_EXIT = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  e0 = MatMul(x, head0)
  deeper = MatMul(x, head1)
  e1 = Add(e0, deeper)
}
"""
"""An exit that a later stage builds on."""


def save_graph(path: Path, text: str, seed: int = 0, **weights: tuple[int, ...] | npt.NDArray[np.generic]) -> Path:
    """Write a graph in ONNX's text form, with initializers of the given value or of random values of a shape."""
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(text)
    for name, weight in weights.items():
        array = weight if isinstance(weight, np.ndarray) else rng.standard_normal(weight).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def two_heads(
    path: Path, body: str, outputs: str = "float[N,3] e0, float[N,3] e1", inputs: str = "float[N,8] x"
) -> Path:
    """Write a graph of a few lines over weights `a` [8, 3], `b` [8, 3] and `c` [3, 3]."""
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return save_graph(path, text, a=(8, 3), b=(8, 3), c=(3, 3))

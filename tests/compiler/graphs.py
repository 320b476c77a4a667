"""Handwritten ONNX graphs that are difficult to split."""

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
"""A function, and nested Ifs that capture two inputs, a weight and a value of an earlier stage."""

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
"""The second exit needs only the shape of a tensor [64, N, 8] of the first stage."""

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
"""A QuantizeLinear and a DequantizeLinear before both exits, so the carry is int8."""

REUSED_EXIT = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  e0 = MatMul(x, head0)
  deeper = MatMul(x, head1)
  e1 = Add(e0, deeper)
}
"""
"""The second stage reads the exit of the first."""


def save_graph(path: Path, text: str, seed: int = 0, **weights: tuple[int, ...] | npt.NDArray[np.generic]) -> Path:
    """Write a model from ONNX's text format; each of `weights` is an array, or a shape that gets random values."""
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
    """Write a model with the nodes `body` and with weights `a` [8, 3], `b` [8, 3] and `c` [3, 3]."""
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return save_graph(path, text, a=(8, 3), b=(8, 3), c=(3, 3))


LOOP = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  e0 = MatMul(h, head)
  three = Constant<value_int = 3>()
  go = Constant<value = bool {1}>()
  y = Loop(three, go, h) <
    body = step (int64 i, bool on, float[N,8] state) => (bool still, float[N,8] next) {
      still = Identity(on)
      turned = MatMul(state, deep)
      joined = Add(turned, h)
      bias = Constant<value_floats = [0.1]>()
      shifted = Add(joined, bias)
      next = Tanh(shifted)
    }>
  e1 = MatMul(y, head)
}
"""
"""A Loop whose body captures a value of an earlier stage and a weight."""

SCAN = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,T,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  axis = Constant<value_ints = [1]>()
  p = ReduceMean<keepdims = 0>(h, axis)
  e0 = MatMul(p, head)
  start = Sub(p, p)
  last, steps = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
    body = step (float[N,8] state, float[N,8] now) => (float[N,8] next, float[N,8] out) {
      turned = MatMul(state, deep)
      joined = Add(turned, now)
      shifted = Add(joined, p)
      next = Tanh(shifted)
      out = Identity(next)
    }>(start, h)
  e1 = MatMul(last, head)
}
"""
"""A Scan over a symbolic number of steps, whose body captures a weight and a value that the first exit reads."""

FUNCTIONS = """
<ir_version: 9, opset_import: ["": 18, "local": 1]>
g (float[N,8] x, bool[N] flag) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  e0 = MatMul(h, head)
  wide = Shape<start = 1>(x)
  seven = Constant<value_ints = [7]>()
  is_wide = Greater(wide, seven)
  y = If(is_wide) <
    then_branch = yes () => (float[N,8] t) { t = local.Outer(h, deep) },
    else_branch = no () => (float[N,8] f) { f = local.Inner(h, deep) }>
  number = Cast<to = 1>(flag)
  one = Constant<value_ints = [1]>()
  column = Unsqueeze(number, one)
  shifted = Add(y, column)
  e1 = MatMul(shifted, head)
}
<domain: "local", opset_import: ["": 18, "local": 1]>
Outer (a, b) => (c) { d = local.Inner(a, b) c = HardSwish(d) }
<domain: "local", opset_import: ["": 18]>
Inner (a, b) => (c) { c = MatMul(a, b) }
"""
"""Two functions that only branches call; one calls the other."""

BRANCH_IN_FUNCTION = """
<ir_version: 9, opset_import: ["": 18, "local": 1]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  e0 = MatMul(h, head)
  y = local.Choose(h, deep)
  e1 = MatMul(y, head)
}
<domain: "local", opset_import: ["": 18]>
Choose (a, b) => (c) {
  n = Shape<start = 1>(a)
  k = Constant<value_ints = [3]>()
  q = Greater(n, k)
  c = If(q) <
    then_branch = yes () => (float[N,8] u) { u = MatMul(a, b) },
    else_branch = no () => (float[N,8] v) { v = Relu(a) }>
}
"""
"""A function with an If."""

SAME_NAMES = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x, float[N,T] gate) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  e0 = MatMul(h, head)
  width = Shape<start = 1>(gate)
  seven = Constant<value_ints = [7]>()
  is_wide = Greater(width, seven)
  y = If(is_wide) <
    then_branch = yes () => (float[N,8] u) <float[1] factor = {2}> { u = Mul(h, factor) },
    else_branch = no () => (float[N,8] v) <float[1] factor = {3}> { v = Mul(h, factor) }>
  e1 = MatMul(y, head)
}
"""
"""Two branches whose initializers have the same name; the width of an input selects one."""

SEQUENCES = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  r = Relu(h)
  both = SequenceConstruct(h, r)
  first = Constant<value_int = 0>()
  second = Constant<value_int = 1>()
  a = SequenceAt(both, first)
  e0 = MatMul(a, head)
  b = SequenceAt(both, second)
  perhaps = Optional(b)
  c = OptionalGetElement(perhaps)
  t = Tanh(c)
  e1 = MatMul(t, head)
}
"""
"""A sequence that both stages read, and an optional in the second."""

INITIALIZER_INPUT = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x, float[8,3] head) => (float[N,3] e0, float[N,3] e1) {
  e0 = MatMul(x, head)
  r = Relu(x)
  e1 = MatMul(r, head)
}
"""
"""An initializer that is also listed as an input, as old exporters do."""

MANY_OPERATORS = """
<ir_version: 10, opset_import: ["": OPSET]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, w)
  e0 = MatMul(h, head)
  rows = Shape(h)
  flat = Reshape(h, rows)
  r = Relu(flat)
  s = Softmax<axis = 1>(r)
  two = Constant<value_ints = [4, 4]>()
  left, right = Split<axis = 1>(s, two)
  joined = Concat<axis = 1>(right, left)
  k = Clip(joined)
  e1 = MatMul(k, head)
}
"""
"""Operators that exist in opset 13 and changed in newer opsets."""

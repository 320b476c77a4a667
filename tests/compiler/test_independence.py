"""Samples must not influence each other: the first node that mixes them is found, in the graph or by running it."""

import numpy as np
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.graphs import save_graph, two_heads

ONE = {"x": np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)}
STEERED = """zero = Constant<value_ints = [0, 1]>() m = ReduceMean<keepdims = 0>(x, zero)
far = Constant<value_floats = [99.0]>() q = Greater(m, far)
h = If(q) <then_branch = t () => (float[N,8] u) { u = Neg(x) }, else_branch = f () => (float[N,8] v) { v = Relu(x) }>"""
LARGE = """zero = Constant<value_ints = [0, 1]>() m = ReduceMax<keepdims = 0>(x, zero)
far = Constant<value_floats = [1e9]>() q = Greater(m, far)
h = If(q) <then_branch = t () => (float[N,8] u) { u = Neg(x) }, else_branch = f () => (float[N,8] v) { v = Relu(x) }>"""
FIRST = (
    "zero = Constant<value_ints = [0]>() one = Constant<value_ints = [1]>() s = Slice(x, zero, one, zero) h = Sub(x, s)"
)
SIZE = """s = Shape<end = 1>(x) n = Cast<to = 1>(s) h = Mul(x, n)"""
TRAINING = "p = Relu(x) h, m, v = BatchNormalization<training_mode = 1>(p, k, k, k, k)"


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (STEERED, "^the ReduceMean of 'm' mixes the samples of a batch, .*; compute per sample"),
        (LARGE, "^the If of 'h' mixes the samples of a batch, .*; compute per sample"),
        ("zero = Constant<value_ints = [0]>() m = ReduceSum(x, zero) h = Sub(x, m)", "^the ReduceSum of 'm' mixes"),
        ("h = LogSoftmax<axis = 0>(x)", "^the LogSoftmax of 'h' mixes"),
        ("h = LayerNormalization<axis = 0>(x, x)", "^the LayerNormalization of 'h' mixes"),
        ("zero = Constant<value_ints = [0]>() h = CumSum(x, zero)", "^the CumSum of 'h' mixes"),
        (TRAINING, "^the BatchNormalization of 'h' normalises with the statistics of the batch.*evaluation mode"),
        (FIRST, "^the Slice of 's' mixes .*exit 'e1' changes by up to"),
        ("t = Transpose(x) g = MatMul(x, t) y = MatMul(g, x) h = Tanh(y)", "^the MatMul of '[gy]' mixes .*exit 'e1'"),
        ("m = ReduceMax(x) h = Mul(x, m)", "^the ReduceMax of 'm' mixes .*exit 'e1'"),
        (SIZE, "^the Mul of 'h' mixes .*exit 'e1'"),
    ],
)
def test_the_node_that_mixes_samples_is_named_even_with_one_sample(tmp_path, body, match):
    path = save_graph(
        tmp_path / "m.onnx",
        f'<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) '
        f"{{ e0 = MatMul(x, a) {body} e1 = MatMul(h, b) }}",
        a=(8, 3), b=(8, 3), k=np.ones(8, dtype=np.float32),
    )  # fmt: skip
    with pytest.raises(CompileError, match=match) as error:
        compile_bundle(path, tmp_path / "bundle", CompileOptions(example=ONE))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        "m = ReduceMax(x) s = Sub(x, m) h = Softmax(s)",  # the maximum cancels
        "zero = Constant<value_ints = [0]>() m = ReduceMean(x, zero) s = Shape(m) h = Expand(x, s)",  # only a shape
        "t = Transpose(x) zero = Constant<value_ints = [0]>() m = ReduceMean(t, zero) u = Transpose(m) h = Sub(x, u)",
    ],
)
def test_a_reduction_that_changes_no_prediction_with_the_batch_is_accepted(tmp_path, body):
    path = two_heads(tmp_path / "m.onnx", f"e0 = MatMul(x, a) {body} e1 = MatMul(h, b)")
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions(example=ONE))
    assert bundle.manifest.proof.samples == 1

"""The number of multiply-accumulates of each node on one sample."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeexit.compiler.macs import count_macs
from edgeexit.compiler.normalise import normalise
from edgeexit.compiler.sessions import probe_shapes

HEAD = '<ir_version: 10, opset_import: ["": 20, "local": 1]> g (float[N,4,6] x) => (float[N,M,K] e0, float[N,4,6] e1) '
BLOCK = '<domain: "local", opset_import: ["": 20]> Twice (a, b) => (d) { c = MatMul(a, b) d = MatMul(c, b) }'


@pytest.fixture
def macs(tmp_path):
    """Count the MACs of a small graph that computes `e0` from `x` [N, 4, 6] and the weight `w` [6, 6]."""

    def counted(body, functions=""):
        model = onnx.parser.parse_model(f"{HEAD} {{ {body} e1 = Relu(x) }} {functions}")
        weight = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
        loaded = ir.from_proto(model)
        normalise(loaded, exits=["e0", "e1"])
        one = {"x": np.ones((1, 4, 6), dtype=np.float32)}
        counts = count_macs(loaded, lambda model, names: probe_shapes(model, names, [one], folder=tmp_path))
        return None if None in counts else sum(counts)

    return counted


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("e0 = MatMul(x, w)", 4 * 6 * 6),
        ("n = Neg(x) e0 = Add(x, n)", 0),
        ('e0 = Einsum<equation = "bij,jk->bik">(x, w)', 4 * 6 * 6),
        ('e0 = Einsum<equation = "...i,ij">(x, w)', 4 * 6 * 6),
        ('e0 = Einsum<equation = "bij->bji">(x)', 0),
        ("c = ConstantOfShape<value = float[1] {1.0}>(s) e0 = Conv(x, c)", 4 * 5 * 4 * 3),
        ("y = LayerNormalization(x, o) e0 = Relu(y)", 0),
    ],
)
def test_the_macs_of_one_operator_are_counted(macs, body, expected):
    constants = "s = Constant<value_ints = [5, 4, 3]>() o = Constant<value_floats = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]>() "
    assert macs(constants + body) == expected


def test_the_macs_of_a_function_are_those_of_its_nodes(macs):
    assert macs("y = local.Twice(x, w) z = local.Twice(y, w) e0 = Relu(z)", BLOCK) == 4 * (4 * 6 * 6)


def test_an_if_counts_as_its_more_expensive_branch(macs):
    body = """
    m = ReduceMax<keepdims = 0>(x) k = Constant<value_float = 0.5>() is_large = Greater(m, k)
    e0 = If (is_large) <
      then_branch = yes () => (float[N,4,6] t) { u = MatMul(x, w) t = MatMul(u, w) },
      else_branch = no () => (float[N,4,6] f) { f = MatMul(x, w) }>
    """
    assert macs(body) == 2 * (4 * 6 * 6)


LOOP = """
true = Constant<value = bool {1}>()
e0 = Loop (trips, true, x) <
  body = step (int64 i, bool c, float[N,4,6] s) => (bool d, float[N,4,6] t) { d = Identity(c) t = MatMul(s, w) }>
"""


def test_the_body_of_a_loop_counts_once_per_iteration_of_a_constant_trip_count(macs):
    assert macs("trips = Constant<value_int = 3>() " + LOOP) == 3 * (4 * 6 * 6)
    open_ended = "sh = Shape<start = 0, end = 1>(x) zero = Constant<value_int = 0>() trips = Gather(sh, zero) "
    assert macs(open_ended + LOOP) is None


def test_a_recurrent_layer_counts_even_if_its_first_output_is_unused(macs):
    body = """
    wide = Constant<value_ints = [1, 12, 6]>() deep = Constant<value_ints = [1, 12, 3]>()
    i = ConstantOfShape<value = float[1] {0.1}>(wide) r = ConstantOfShape<value = float[1] {0.1}>(deep)
    t = Transpose<perm = [1, 0, 2]>(x) all, h, c = LSTM<hidden_size = 3>(t, i, r) e0 = Transpose<perm = [1, 0, 2]>(h)
    """
    assert macs(body) == 4 * (12 * 6 + 12 * 3)

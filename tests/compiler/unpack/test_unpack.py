"""Exits packed in one tensor are taken apart: the logits stay the same, and each exit needs only its own features."""

from random import Random

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.compiler.extract import nodes_needed_for
from edgeexit.compiler.macs import is_matmul_or_conv
from edgeexit.compiler.normalise import normalise
from edgeexit.compiler.splitting.plan import check_exits
from edgeexit.compiler.unpack.unpack import unpack_exits
from edgeexit.errors import CompileError
from tests.compiler.unpack.packed_networks import WIDTH, PackedNetwork

BATCHES = (1, 2, 5)


def graph_of(body, *, exits=("e0", "e1")):
    """Return the normalised graph of some nodes on `x` [N, 4]; `w` and `v` are weights [4, 4], `u` is [2, 4, 4]."""
    outputs = ", ".join(f"float[N,C{index}] {name}" for index, name in enumerate(exits))
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[N,{WIDTH}] x) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 4)), ("v", (4, 4)), ("u", (2, 4, 4))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype("f4"), name))
    model = ir.from_proto(model)
    normalise(model, exits=list(exits))
    return model


TRUNK = """
  f0 = MatMul(x, w) g0 = Tanh(f0) f1 = MatMul(g0, v) g1 = Tanh(f1)
  zero = Constant<value_ints = [0]>() one = Constant<value_ints = [1]>() two = Constant<value_ints = [2]>()
  four = Constant<value_ints = [4]>() eight = Constant<value_ints = [8]>()
  p0 = Unsqueeze(g0, one) p1 = Unsqueeze(g1, one) packed = Concat<axis = 1>(p0, p1)
"""
"""Two blocks, whose features g0 and g1 [N, 4] are stacked in `packed` [N, 2, 4]."""

UNBIND = """
  s0 = Slice(y, zero, one, one) e0 = Squeeze(s0, one)
  s1 = Slice(y, one, two, one) e1 = Squeeze(s1, one)
"""


def run(model, batch):
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(batch).standard_normal((batch, WIDTH)).astype(np.float32)
    return session.run(None, {"x": x})


def matmuls(model, index):
    """Return the number of matmuls and convolutions that an exit needs."""
    return sum(is_matmul_or_conv(node) for node in nodes_needed_for(model.graph, [model.graph.outputs[index]]))


def unpack_and_compare(model):
    """Take the exits of a model apart, and compare its logits with those before."""
    expected = [run(model, batch) for batch in BATCHES]
    names = [value.name for value in model.graph.outputs]
    assert unpack_exits(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [value.name for value in model.graph.outputs] == names
    for logits, batch in zip(expected, BATCHES, strict=True):
        for found, wanted in zip(run(model, batch), logits, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
    check_exits(model.graph, names)


@given(st.integers(0, 1 << 20), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_random_packed_networks_are_taken_apart(seed, steps):
    model = PackedNetwork(Random(seed)).model(steps=steps)  # noqa: S311 - no secret
    unpack_and_compare(model)
    counts = [matmuls(model, index) for index in range(len(model.graph.outputs))]
    assert counts == sorted(set(counts)), "each exit needs more than the one before"


def test_an_exit_that_was_only_stacked_is_computed_by_its_own_head_alone():
    model = graph_of(TRUNK + "y = Identity(packed)" + UNBIND)
    unpack_and_compare(model)
    assert [node.op_type for node in model.graph] == ["MatMul", "Tanh", "MatMul", "Tanh", "Identity"]


@pytest.mark.parametrize("end", ["two", "eight"])
def test_no_row_is_computed_twice_if_a_later_exit_needs_the_earlier_ones(end):
    first = "s0 = Slice(y, zero, one, one) e0 = ReduceMean<keepdims = 0>(s0, one)"
    last = f"s1 = Slice(y, zero, {end}, one) a = ReduceMean<keepdims = 0>(s1, one) e1 = MatMul(a, v)"
    model = graph_of(f"{TRUNK} y = MatMul(packed, w) {first} {last}")
    unpack_and_compare(model)
    assert matmuls(model, 0) == 2
    assert sum(node.op_type == "MatMul" for node in model.graph) == 5, "two blocks, the head for each exit, and v"


def test_heads_with_their_own_weights_get_only_their_slice_of_the_weights():
    rows = "r = Unsqueeze(packed, two) z = MatMul(r, u) y = Squeeze(z, two)"
    model = graph_of(TRUNK + rows + UNBIND)
    unpack_and_compare(model)
    sizes = [tuple(value.const_value.shape) for value in model.graph.initializers.values()]
    assert (2, 4, 4) not in sizes
    assert sizes.count((1, 4, 4)) == 2


def test_writes_into_a_tensor_are_taken_apart():
    writes = """
      n = Shape<start = 0, end = 1>(x) all = Concat<axis = 0>(n, eight) none = ConstantOfShape(all)
      t = Transpose<perm = [1, 0]>(none)
      i0 = Constant<value = int64[4, 1] {0, 1, 2, 3}>() i1 = Constant<value = int64[4, 1] {4, 5, 6, 7}>()
      u0 = Transpose<perm = [1, 0]>(g0) u1 = Transpose<perm = [1, 0]>(g1)
      a = ScatterND(t, i0, u0) b = ScatterND(a, i1, u1) y = Transpose<perm = [1, 0]>(b)
      e0 = Slice(y, zero, four, one) e1 = Slice(y, four, eight, one)
    """
    model = graph_of(TRUNK + writes)
    unpack_and_compare(model)
    assert matmuls(model, 0) == 1


BATCH = "n = Shape<start = 0, end = 1>(x) all = Concat<axis = 0>(g0, g1) y = MatMul(all, w)"
TWICE = "both = Mul(n, two)"
CHUNK = """
  none = Constant<value = int64 {0}>() shape = Shape(y) rows = Gather(shape, none) o = Squeeze(one) t = Squeeze(two)
  more = Add(rows, o) half = Div(more, t) end = Unsqueeze(half, zero) double = Mul(end, two)
"""


@pytest.mark.parametrize(
    "slices",
    [
        pytest.param(f"{TWICE} e0 = Slice(y, zero, n) e1 = Slice(y, n, both)", id="from and to a multiple"),
        pytest.param(
            "e0 = Slice(y, zero, n) last = Constant<value_ints = [1000000000000]>() e1 = Slice(y, n, last)",
            id="to the end",
        ),
        pytest.param(
            "m = Neg(n) e0 = Slice(y, zero, m) last = Constant<value_ints = [1000000000000]>() e1 = Slice(y, m, last)",
            id="from the end",
        ),
        pytest.param(f"{CHUNK} e0 = Slice(y, zero, end, zero) e1 = Slice(y, end, double, zero)", id="as torch.chunk"),
        pytest.param("e0, e1 = Split<axis = 0, num_outputs = 2>(y)", id="split"),
    ],
)
def test_exits_concatenated_along_the_batch_are_taken_apart(slices):
    model = graph_of(f"{TRUNK} {BATCH} {slices}")
    unpack_and_compare(model)
    assert [matmuls(model, index) for index in (0, 1)] == [2, 3]


def test_a_slice_of_other_samples_is_no_exit():
    model = graph_of(f"{TRUNK} {BATCH} e0 = Slice(y, zero, one) e1 = Slice(y, n, n)")
    assert not unpack_exits(model)


def test_the_names_of_new_nodes_are_the_same_in_every_run():
    protos = []
    for _ in range(2):
        model = PackedNetwork(Random(3)).model(steps=6)  # noqa: S311 - no secret
        unpack_exits(model)
        protos.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert protos[0] == protos[1]


ORDINARY = {
    "channel split and shuffle": """
      h0, h1 = Split<axis = 1, num_outputs = 2>(x) ww, wv = Split<axis = 1, num_outputs = 2>(w)
      wa, wb = Split<axis = 0, num_outputs = 2>(ww) a = MatMul(h0, wa) b = Concat<axis = 1>(a, h1)
      shape = Constant<value_ints = [-1, 2, 2]>() flat = Constant<value_ints = [-1, 4]>()
      c = Reshape(b, shape) d = Transpose<perm = [0, 2, 1]>(c) e = Reshape(d, flat)
      e0 = MatMul(e, v) k0, k1 = Split<axis = 1, num_outputs = 2>(e) l = MatMul(k0, wb) m = Concat<axis = 1>(l, k1)
      e1 = MatMul(m, w)
    """,
    "query, key and value of one matmul": """
      h = MatMul(x, w) q, k = Split<axis = 1, num_outputs = 2>(h) a = Mul(q, k) c = Concat<axis = 1>(a, a)
      e0 = MatMul(c, v) d = Tanh(c) g = MatMul(d, w) r, s = Split<axis = 1, num_outputs = 2>(g) t = Neg(s)
      o = Concat<axis = 1>(t, r) e1 = MatMul(o, v)
    """,
    "a token in front of the others": """
      one = Constant<value_ints = [1]>() first = Constant<value = int64 {0}>()
      p = Unsqueeze(x, one) y = MatMul(p, w) tokens = Concat<axis = 1>(p, y)
      q = MatMul(tokens, v) qt = Transpose<perm = [0, 2, 1]>(q) s = MatMul(q, qt) m = Softmax(s) z = MatMul(m, q)
      c0 = Gather<axis = 1>(z, first) e0 = MatMul(c0, w)
      q2 = MatMul(z, w) q2t = Transpose<perm = [0, 2, 1]>(q2) s2 = MatMul(q2, q2t) m2 = Softmax(s2) z2 = MatMul(m2, q2)
      c1 = Gather<axis = 1>(z2, first) e1 = MatMul(c1, v)
    """,
}


@pytest.mark.parametrize("body", ORDINARY.values(), ids=ORDINARY.keys())
def test_a_network_without_packed_exits_stays_byte_for_byte_the_same(body):
    model = graph_of(body)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not unpack_exits(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


BLOCKED = {
    "Softmax": "y = Softmax<axis = 1>(packed)",
    "MatMul": "t = Transpose<perm = [0, 2, 1]>(packed) s = MatMul(packed, t) z = MatMul(s, packed) y = MatMul(z, w)",
    "LayerNormalization": "y = LayerNormalization<axis = 1>(packed, ones)",
}


@pytest.mark.parametrize("operator", BLOCKED)
def test_exits_that_an_operator_computes_together_are_refused(operator):
    ones = "ones = Constant<value = float[2, 4] {1, 1, 1, 1, 1, 1, 1, 1}>()"
    model = graph_of(TRUNK + ones + BLOCKED[operator] + UNBIND)
    unpack_exits(model)
    with pytest.raises(CompileError, match=f"exit 'e1' needs no work beyond that of 'e0': .*{operator}.* computes"):
        check_exits(model.graph, ["e0", "e1"])


def test_exits_of_one_split_are_refused_with_the_same_message():
    model = graph_of(TRUNK + "y = Softmax<axis = 1>(packed) e0, e1 = Split<axis = 1, num_outputs = 2>(y)")
    assert not unpack_exits(model)
    with pytest.raises(CompileError, match="the Softmax of 'y' computes the exits together"):
        check_exits(model.graph, ["e0", "e1"])


def test_a_convolution_with_a_kernel_of_one_element_is_applied_to_each_exit():
    head = "t = Transpose<perm = [0, 2, 1]>(packed) k = Unsqueeze(w, two) y = Conv(t, k)"
    ends = "a, b = Split<axis = 2, num_outputs = 2>(y) e0 = Squeeze(a, two) e1 = Squeeze(b, two)"
    model = graph_of(f"{TRUNK} {head} {ends}")
    unpack_and_compare(model)
    assert [matmuls(model, index) for index in (0, 1)] == [2, 3]


def test_a_file_that_declares_a_wrong_rank_is_left_as_it_is():
    model = graph_of(TRUNK + "y = MatMul(packed, w) e0, e1 = Split<axis = 1, num_outputs = 2>(y)")
    assert not unpack_exits(model)


def test_an_elementwise_operator_after_packed_exits_is_no_work():
    scaled = UNBIND.replace("e0 =", "a =").replace("e1 =", "b =") + "e0 = Neg(a) e1 = Tanh(b)"
    model = graph_of(TRUNK + BLOCKED["Softmax"] + scaled)
    unpack_exits(model)
    with pytest.raises(CompileError, match=r"exit 'e1' needs no work beyond that of 'e0'.*compute each exit from its"):
        check_exits(model.graph, ["e0", "e1"])


def test_an_elementwise_operator_on_all_features_is_a_stage():
    model = graph_of("h = MatMul(x, w) e0 = Tanh(h) e1 = Neg(h)")
    assert not unpack_exits(model)
    check_exits(model.graph, ["e0", "e1"])

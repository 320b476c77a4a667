"""float16 models: logits close to fp32, no infinite values, exact sizes, valid types."""

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from edgeexit.compiler.precision.reduce import reduce_precision
from tests.compiler.precision.reduced_graphs import float_types, nodes_of, outputs_of, read_text
from tests.recorded_progress import RecordedProgress

HEADER = '<ir_version: 9, opset_import: ["": 18]>\n'


def in_fp16(model, folder, **options):
    progress = RecordedProgress()
    return reduce_precision(model, "fp16", folder=folder, progress=progress, **options), progress.warnings


def assert_close(model, reduced, inputs, folder, tolerance=5e-3):
    expected, found = outputs_of(model, inputs, folder), outputs_of(reduced, inputs, folder)
    assert expected.keys() == found.keys()
    for name, logits in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], logits, atol=tolerance, rtol=tolerance)


def types_of(model, *names):
    return {value.dtype.name for node in model.graph for value in node.outputs if value.name in names}


@pytest.fixture
def x():
    return {"x": np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)}


@pytest.mark.parametrize("opset", [13, 18])
def test_everything_except_inputs_and_exits_is_float16(tmp_path, x, opset):
    text = f"""<ir_version: 9, opset_import: ["": {opset}]>
    g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {{
      h = MatMul(x, w) r = Relu(h) e0 = MatMul(r, a) d = Add(r, h) e1 = MatMul(d, a) }}"""
    model = read_text(tmp_path, text, w=(8, 8), a=(8, 3))
    reduced, warnings = in_fp16(model, tmp_path)
    types = {str(value.name): value.dtype.name for node in reduced.graph for value in node.outputs}
    floats = {name for name, dtype in types.items() if dtype == "FLOAT"}
    assert floats == {"e0", "e1"}
    assert {name: value.dtype.name for name, value in reduced.graph.initializers.items()} == {
        "w": "FLOAT16",
        "a": "FLOAT16",
    }
    assert [node.op_type for node in reduced.graph].count("Cast") == 3
    assert warnings == []
    assert_close(model, reduced, x, tmp_path)


def test_sizes_beyond_2048_stay_exact(tmp_path):
    text = (
        HEADER
        + """g (float[N,W] x) => (float[N,3] e0, float[N,3] e1) {
      size = Shape(x) as_float = Cast<to = 1>(size) doubled = Mul(as_float, two) half = Div(doubled, two)
      again = Cast<to = 7>(half) y = Reshape(x, again) r = Relu(y) e0 = MatMul(r, a) s = Sigmoid(r) e1 = MatMul(s, a)
    }"""
    )
    two = np.array([2.0], dtype=np.float32)
    model = read_text(tmp_path, text, two=two, a=np.full((4099, 3), 1e-3, dtype=np.float32))
    reduced, _ = in_fp16(model, tmp_path)
    assert types_of(reduced, "as_float", "doubled", "half") == {"FLOAT"}  # float16 has no 4099
    assert_close(model, reduced, {"x": np.ones((2, 4099), dtype=np.float32)}, tmp_path, 1e-2)


def test_a_number_beyond_the_range_that_is_not_a_mask_is_clipped_with_a_warning(tmp_path, x):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      h = Add(x, large) t = Tanh(h) e0 = MatMul(t, a) r = Relu(t) e1 = MatMul(r, a) }"""
    )
    for large, warning_count in ((-1e6, 1), (np.finfo(np.float32).min, 0)):
        model = read_text(tmp_path, text, large=np.float32([large]), a=(8, 3))
        reduced, warnings = in_fp16(model, tmp_path)
        assert ["65504" in warning for warning in warnings] == [True] * warning_count
        assert_close(model, reduced, x, tmp_path)


def test_a_node_whose_weights_are_beyond_the_range_stays_in_fp32(tmp_path, x):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      big = MatMul(x, w) h = Mul(big, small) e0 = MatMul(h, a) r = Relu(h) e1 = MatMul(r, a) }"""
    )
    w = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32) * 1e6
    model = read_text(tmp_path, text, w=w, small=np.float32([1e-6]), a=(8, 3))
    reduced, warnings = in_fp16(model, tmp_path)
    assert any("its weight 'w' are too large or too small" in warning for warning in warnings)
    assert reduced.graph.initializers["w"].dtype == ir.DataType.FLOAT
    assert_close(model, reduced, x, tmp_path)


OVERFLOWS = (
    HEADER
    + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  mild = MatMul(x, w) hot = MatMul(mild, w) again = Relu(hot) h = Mul(again, small) e0 = MatMul(h, a)
  t = Tanh(mild) e1 = MatMul(t, a) }"""
)
"""`hot` exceeds 65504, although all weights and exits are small. On a CPU, ONNX Runtime does not overflow."""


def test_nodes_that_overflow_on_the_samples_stay_in_fp32_with_a_warning(tmp_path, x):
    model = read_text(tmp_path, OVERFLOWS, w=np.eye(8, dtype=np.float32) * 1000, small=np.float32([1e-4]), a=(8, 3))
    reduced, warnings = in_fp16(model, tmp_path, samples=x)
    assert types_of(reduced, "hot", "again", "h") == {"FLOAT"}
    assert types_of(reduced, "mild", "t") == {"FLOAT16"}
    (warning,) = warnings
    assert "'MatMul_hot' (" in warning
    assert "kept in fp32" in warning
    assert_close(model, reduced, x, tmp_path)
    unseen, warnings = in_fp16(model, tmp_path, samples={"x": x["x"] * 1e-3})
    assert (types_of(unseen, "hot"), warnings) == ({"FLOAT16"}, [])


def test_the_large_number_of_a_mask_is_not_an_overflow(tmp_path, x):
    text = (
        HEADER
        + """g (float[N,8] x, float[N,8] m) => (float[N,3] e0, float[N,3] e1) {
      masked = Sub(one, m) bias = Mul(masked, lowest) h = MatMul(x, w) scores = Add(h, bias) p = Softmax(scores)
      e0 = MatMul(p, a) r = Tanh(p) e1 = MatMul(r, a) }"""
    )
    weights = {"one": np.float32([1]), "lowest": np.float32([np.finfo(np.float32).min]), "w": (8, 8), "a": (8, 3)}
    inputs = x | {"m": np.float32(np.arange(24).reshape(3, 8) % 3 > 0)}
    model = read_text(tmp_path, text, **weights)
    reduced, warnings = in_fp16(model, tmp_path, samples=inputs)
    assert types_of(reduced, "scores", "p") == {"FLOAT16"}
    assert not any("samples" in warning for warning in warnings)
    assert_close(model, reduced, inputs, tmp_path)


@pytest.mark.parametrize("scale", [1e6, 1e-7])
def test_a_scale_that_float16_cannot_represent_is_not_changed(tmp_path, x, scale):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      small = MatMul(x, w) h = Mul(small, scale) e0 = MatMul(h, a) r = Tanh(h) e1 = MatMul(r, a) }"""
    )
    w = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32) / np.float32(scale)
    model = read_text(tmp_path, text, w=w, scale=np.float32([scale]), a=(8, 3))
    reduced, _ = in_fp16(model, tmp_path, samples=x)
    assert_close(model, reduced, x, tmp_path, 1e-2)


def test_a_mul_of_a_value_with_itself_stays_in_fp32(tmp_path, x):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      h = MatMul(x, w) square = Mul(h, h) mean = ReduceMean(square, axis) safe = Add(mean, eps) root = Sqrt(safe)
      n = Div(h, root) e0 = MatMul(n, a) r = Relu(n) e1 = MatMul(r, a) }"""
    )
    model = read_text(tmp_path, text, w=(8, 8), a=(8, 3), eps=np.float32([1e-12]), axis=np.array([1]))
    reduced, _ = in_fp16(model, tmp_path)
    assert types_of(reduced, "square", "mean", "safe", "root") == {"FLOAT"}
    assert types_of(reduced, "h", "n") == {"FLOAT16"}


def test_a_transpose_before_a_matmul_does_not_crash_onnx_runtime(tmp_path):
    """ONNX Runtime 1.23 to 1.32 crashes there with its default optimisations, on x86-64."""
    text = (
        HEADER
        + """g (float[N,L,8] x) => (float[N,3] e0, float[N,3] e1) {
      t = Transpose<perm = [1, 0, 2]>(x) m = MatMul(t, w) p = ReduceMean<keepdims = 0>(m, axis) e0 = MatMul(p, a)
      r = Tanh(p) e1 = MatMul(r, a) }"""
    )
    model = read_text(tmp_path, text, w=(8, 8), a=(8, 3), axis=np.array([0]))
    reduced, _ = in_fp16(model, tmp_path)
    ir.save(reduced, tmp_path / "reduced.onnx")
    program = (
        "from pathlib import Path; import sys; from edgeexit.compiler.sessions import ReferenceSession; "
        "ReferenceSession(Path(sys.argv[1]), what='it')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "reduced.onnx")]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_norm_stays_finite_with_squares_and_an_epsilon(tmp_path, x):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      h = MatMul(x, w) square = Pow(h, two) mean = ReduceMean(square, axis) safe = Add(mean, eps) root = Sqrt(safe)
      n = Div(h, root) e0 = MatMul(n, a)
      none = Sub(n, n) still = Div(none, eps) e1 = MatMul(still, a) }"""
    )
    w = np.eye(8, dtype=np.float32) * 1000
    constants = {"two": np.float32([2]), "eps": np.float32([1e-12]), "axis": np.array([1])}
    model = read_text(tmp_path, text, w=w, a=(8, 3), **constants)
    reduced, _ = in_fp16(model, tmp_path)
    assert types_of(reduced, "square", "mean", "safe", "root") == {"FLOAT"}
    assert types_of(reduced, "h", "n") == {"FLOAT16"}
    assert_close(model, reduced, x, tmp_path, 1e-2)


def test_subgraphs_read_float16_and_return_float32(tmp_path):
    text = (
        HEADER
        + """g (float[N,8] x, bool[N] up) => (float[N,3] e0, float[N,3] e1) {
      h = MatMul(x, w) e0 = MatMul(h, a)
      first = Gather(up, zero)
      y = If (first) <
        then_branch = yes () => (float[N,8] t) { k = Relu(h) sums = ReduceSum(k, axis) t = Mul(k, sums) },
        else_branch = no () => (float[N,8] f) { f = Mul(h, scale) }>
      last = Loop (trips, first, y) <
        body = again (int64 i, bool go, float[N,8] state) => (bool stay, float[N,8] next) {
          stay = Identity(go) mixed = MatMul(state, w) next = Tanh(mixed) }>
      e1 = MatMul(last, a) }"""
    )
    weights = {"scale": np.float32([0.5]), "axis": np.array([1]), "zero": np.array(0), "trips": np.array(3)}
    model = read_text(tmp_path, text, w=(8, 8), a=(8, 3), **weights)
    reduced, _ = in_fp16(model, tmp_path)
    types = {value.dtype.name for graph in reduced.graphs() for node in graph for value in node.outputs if value.dtype}
    assert "FLOAT16" in types
    rng = np.random.default_rng(0)
    for up in (True, False):
        inputs = {"x": rng.standard_normal((2, 8)).astype(np.float32), "up": np.full(2, up)}
        assert_close(model, reduced, inputs, tmp_path, 5e-2)


def test_existing_casts_are_not_duplicated(tmp_path, x):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      h = MatMul(x, w) narrow = Cast<to = 10>(h) r = Relu(narrow) wide = Cast<to = 1>(r) e0 = MatMul(wide, a)
      t = Tanh(wide) e1 = MatMul(t, a) }"""
    )
    model = read_text(tmp_path, text, w=(8, 8), a=(8, 3))
    reduced, _ = in_fp16(model, tmp_path)
    assert len(nodes_of(reduced, "Cast")) == 3
    assert_close(model, reduced, x, tmp_path)


def test_operators_of_other_domains_stay_in_fp32(tmp_path, x):
    text = """<ir_version: 9, opset_import: ["": 18, "com.microsoft": 1]>
    g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      h = MatMul(x, w) r = com.microsoft.QuickGelu<alpha = 1.7>(h) e0 = MatMul(r, a) t = Tanh(r) e1 = MatMul(t, a) }"""
    model = read_text(tmp_path, text, w=(8, 8), a=(8, 3))
    reduced, _ = in_fp16(model, tmp_path)
    (gelu,) = nodes_of(reduced, "QuickGelu")
    assert gelu.inputs[0].dtype == ir.DataType.FLOAT
    assert_close(model, reduced, x, tmp_path)


def test_nodes_in_keep_fp32_are_not_changed(tmp_path, x):
    text = (
        HEADER
        + """g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
      h = MatMul(x, w) e0 = MatMul(h, a) r = Relu(h) last = MatMul(r, a) e1 = Add(last, bias) }"""
    )
    model = read_text(tmp_path, text, w=(8, 8), a=(8, 3), bias=(3,))
    reduced, _ = in_fp16(model, tmp_path, keep_fp32=["last"])
    kept = next(node for node in reduced.graph if node.outputs[0].name == "last")
    assert {value.dtype.name for value in (*kept.inputs, *kept.outputs)} == {"FLOAT"}
    assert reduced.graph.outputs[1].producer().op_type == "Add"  # the bias does not change the type of a kept node
    assert float_types(reduced) == {"FLOAT", "FLOAT16"}
    assert_close(model, reduced, x, tmp_path)

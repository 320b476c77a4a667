"""ONNX files with subgraphs, functions, shapes, Q/DQ or external data are split correctly."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgeexit.backends.onnxruntime.sessions import UNSAFE_OPTIMISERS
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.runtime import Runner
from tests.compiler.graphs import BRANCH, QUANTISED, REUSED_EXIT, SHAPES, save_graph, two_heads
from tests.compiler.staged_run import run_stages


def assert_equals_full_model(bundle, path, inputs):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = run_stages(bundle, inputs)
    for name, expected in zip(bundle.manifest.exits, session.run(list(bundle.manifest.exits), inputs), strict=True):
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


@pytest.fixture
def samples():
    return {"x": np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)}


def test_values_that_subgraphs_capture_are_carried_and_functions_are_in_their_stage(tmp_path):
    path = save_graph(tmp_path / "branch.onnx", BRANCH, w=(4, 4), head=(4, 3), deep=(4,))
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions(inputs=["x:batch,5,4"]))
    first, second = bundle.manifest.stages
    assert second.carry_in == ("h",)
    assert second.inputs == ("x", "gate")
    assert first.inputs == ("x",)
    assert first.macs == 5 * 4 * 4 + 4 * 3
    assert [len(onnx.load(bundle.path / stage.file).functions) for stage in (first, second)] == [1, 0]
    rng = np.random.default_rng(0)
    for length in (2, 6):  # one branch each
        inputs = {
            "x": rng.standard_normal((3, length, 4)).astype(np.float32),
            "gate": rng.standard_normal((3, length, 1)).astype(np.float32),
        }
        assert_equals_full_model(bundle, path, inputs)


def test_a_shape_is_recomputed_in_the_stage_that_needs_it(tmp_path, samples):
    path = save_graph(
        tmp_path / "shapes.onnx",
        SHAPES,
        w=(8, 8),
        head0=(8, 3),
        head1=(8, 3),
        sizes=np.array([64, 1, 8]),
        axis=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
    )
    bundle = compile_bundle(path, tmp_path / "bundle")
    first, second = bundle.manifest.stages
    assert [(tensor.name, tensor.shape) for tensor in first.carry_out] == [("pooled", ("batch", 8))]
    assert second.inputs == ()
    assert_equals_full_model(bundle, path, samples)


def test_the_carry_between_quantize_and_dequantize_is_int8(tmp_path, samples):
    path = save_graph(
        tmp_path / "quantised.onnx",
        QUANTISED,
        w=(8, 8),
        head0=(8, 3),
        head1=(8, 3),
        scale=np.float32([0.05])[0:1].reshape(()),
        zero=np.array(0, dtype=np.int8),
    )
    bundle = compile_bundle(path, tmp_path / "bundle")
    (carry,) = bundle.manifest.stages[0].carry_out
    assert (carry.name, carry.dtype, carry.bytes_per_sample) == ("q", "int8", 8)
    assert_equals_full_model(bundle, path, samples)


def test_a_later_stage_may_read_an_exit(tmp_path, samples):
    path = save_graph(tmp_path / "reused.onnx", REUSED_EXIT, head0=(8, 3), head1=(8, 3))
    bundle = compile_bundle(path, tmp_path / "bundle")
    first, second = bundle.manifest.stages
    assert first.exit.name == "e0"
    assert "e0" not in second.carry_in
    assert_equals_full_model(bundle, path, samples)


def test_a_model_input_that_only_a_subgraph_reads_is_an_input_of_its_stage(tmp_path):
    body = (
        "e0 = MatMul(x, a) n = Shape<start = 1>(x) one = Constant<value_ints = [1]>() late_is_used = Greater(n, one) "
        "y = If (late_is_used) <then_branch = t () => (float[N,3] u) { u = MatMul(late, b) }, "
        "else_branch = f () => (float[N,3] v) { v = MatMul(x, b) }> e1 = Add(e0, y)"
    )
    path = two_heads(tmp_path / "late.onnx", body, inputs="float[N,8] x, float[N,8] late")
    bundle = compile_bundle(path, tmp_path / "bundle")
    assert bundle.manifest.stages[0].inputs == ("x",)
    assert "late" in bundle.manifest.stages[1].inputs


def test_external_data_is_copied_into_the_bundle(tmp_path, samples):
    path = save_graph(tmp_path / "big.onnx", REUSED_EXIT.replace("head", "w"), w0=(8, 3), w1=(8, 3))
    onnx.save(
        onnx.load(path),
        path,
        save_as_external_data=True,
        location="elsewhere.data",
        size_threshold=0,
        convert_attribute=True,
    )
    bundle = compile_bundle(path, tmp_path / "bundle")
    assert_equals_full_model(bundle, path, samples)
    (tmp_path / "elsewhere.data").unlink()
    run_stages(bundle, samples)


def test_weights_with_equal_bytes_are_stored_once(tmp_path):
    same = np.random.default_rng(0).standard_normal((8, 300)).astype(np.float32)
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x) => (float[N,300] e0, float[N,300] e1) { e0 = MatMul(x, w0) y = Relu(x) e1 = MatMul(y, w1) }"""
    bundle = compile_bundle(save_graph(tmp_path / "same.onnx", text, w0=same, w1=same.copy()), tmp_path / "bundle")
    assert (bundle.path / "weights.bin").stat().st_size == same.nbytes


def test_a_symbolic_dimension_has_the_given_size_in_random_samples(tmp_path):
    path = save_graph(tmp_path / "branch.onnx", BRANCH, w=(4, 4), head=(4, 3), deep=(4,))
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions(inputs=["gate:batch,2,1"]))
    assert bundle.golden().inputs["x"].shape == (8, 2, 4)


CAPTURED = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  q = QuantizeLinear(x, scale, zero)
  d = DequantizeLinear(q, scale, zero)
  e0 = MatMul(d, head0)
  moved = Transpose<perm = [0, 1]>(d)
  size = Shape<start = 1>(x)
  many = Greater(size, size)
  y = If (many) <
    then_branch = yes () => (float[N,8] t) { t = Tanh(moved) },
    else_branch = no () => (float[N,8] f) { f = Relu(moved) }>
  e1 = MatMul(y, head1)
}
"""
"""ONNX Runtime's Q/DQ propagation crashes on this graph."""


def test_a_subgraph_may_capture_a_transposed_dequantised_value(tmp_path, samples):
    scale, zero = np.array(0.05, dtype=np.float32), np.array(0, dtype=np.int8)
    path = save_graph(tmp_path / "captured.onnx", CAPTURED, scale=scale, zero=zero, head0=(8, 3), head1=(8, 3))
    bundle = compile_bundle(path, tmp_path / "bundle")
    assert [tensor.dtype for tensor in bundle.manifest.stages[0].carry_out] == ["int8"]
    with Runner(bundle) as runner:
        outputs = runner.infer_every_exit(samples).outputs
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"], disabled_optimizers=UNSAFE_OPTIMISERS)
    for name, expected in zip(bundle.manifest.exits, session.run(None, samples), strict=True):
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)

"""ONNX graphs in bfloat16 or float64 are compiled in float32 and compared with the file."""

import numpy as np
import onnx
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.graphs import save_graph
from tests.compiler.staged_run import run_stages
from tests.recorded_progress import RecordedProgress

TYPES = {"bfloat16": onnx.TensorProto.BFLOAT16, "float64": onnx.TensorProto.DOUBLE}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 2, 4, 4)).astype(np.float32)
WEIGHTS = {"k": RNG.standard_normal((3, 2, 3, 3)), "a": RNG.standard_normal((3, 3)), "b": RNG.standard_normal((3, 3))}
BODY = """y = Conv(x, k) p = ReduceMean<keepdims = 0>(y, axes) e0 = MatMul(p, a) r = Relu(p) m = Add(r, lowest)
l = Constant<value = {onnx_type} {{{half}}}>() n = Max(m, l) s = Cast<to = 7>(r)
q = Cast<to = {number}>(s) h = Add(n, q)
e1 = MatMul(h, b)"""


def save(path, name, body=BODY, **weights):
    """Write a file whose input, weights and exits have the type; Conv in it needs a newer opset for bfloat16."""
    onnx_type = {"bfloat16": "bfloat16", "float64": "double"}[name]
    body = body.format(
        onnx_type=onnx_type, number=TYPES[name], half=16128 if name == "bfloat16" else 0.5
    )  # the bits of 0.5
    text = f"""<ir_version: 10, opset_import: ["": 22]>
    g ({onnx_type}[N,2,4,4] x) => ({onnx_type}[N,3] e0, {onnx_type}[N,3] e1) {{ {body} }}"""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(TYPES[name])
    lowest = np.array(np.finfo(np.float64).min if name == "float64" else -3e38)
    arrays = {key: array.astype(dtype) for key, array in {**WEIGHTS, "lowest": lowest, **weights}.items()}
    return save_graph(path, text, axes=np.array([2, 3]), **arrays)


@pytest.mark.parametrize("name", TYPES)
def test_the_stages_equal_the_network_in_float32(tmp_path, name):
    path = save(tmp_path / "model.onnx", name)
    progress = RecordedProgress()
    bundle = compile_bundle(path, tmp_path / "bundle", progress=progress)
    assert any(f"{name} (as 'k') to float32" in warning for warning in progress.warnings)
    assert bundle.manifest.inputs[0].dtype == ("float64" if name == "float64" else "float32")
    assert {spec.dtype for stage in bundle.manifest.stages for spec in stage.carry_out} == {"float32"}
    found = run_stages(bundle, {"x": X.astype(bundle.manifest.inputs[0].dtype)})
    windows = np.lib.stride_tricks.sliding_window_view(X, (3, 3), axis=(2, 3)).mean(axis=(2, 3))
    pooled = np.einsum("nchw,kchw->nk", windows, WEIGHTS["k"])
    hidden = np.maximum(pooled, 0)
    expected = {"e0": pooled @ WEIGHTS["a"], "e1": (0.5 + np.floor(hidden)) @ WEIGHTS["b"]}
    tolerance = 1e-3 if name == "float64" else 0.05
    for exit_name, array in found.items():
        if exit_name in expected:
            np.testing.assert_allclose(array, expected[exit_name], atol=tolerance, rtol=tolerance)


def test_a_result_that_float32_cannot_represent_is_an_error(tmp_path):
    body = BODY + " e1_unused = Identity(h)"
    body = body.replace("e1 = MatMul(h, b)", "w = Add(h, huge) v = Sub(w, huge) e1 = MatMul(v, b)")
    path = save(tmp_path / "model.onnx", "float64", body, huge=np.array(1e12))
    with pytest.raises(CompileError, match=r"converting float64 .* changes exit 'e1' by up to .*model\.float\(\)"):
        compile_bundle(path, tmp_path / "bundle")


def test_a_file_with_a_few_float64_numbers_is_not_converted(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
    e0 = MatMul(x, a) d = Cast<to = 11>(x) m = Mul(d, scale) h = Cast<to = 1>(m) e1 = MatMul(h, a) }"""
    path = save_graph(tmp_path / "model.onnx", text, a=(8, 3), scale=np.array([0.1]))
    progress = RecordedProgress()
    compile_bundle(path, tmp_path / "bundle", CompileOptions(), progress=progress)
    assert not any("converted" in warning for warning in progress.warnings)

"""Names in a user's graph that collide with names the compiler adds, and names of unknown dimensions."""

import numpy as np
import pytest

from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.full_model import assert_file_composed, carried
from tests.compiler.graphs import save_graph, two_heads

ROWS = {"x": np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)}
MOVED = """
h = MatMul(x, w) moved = Transpose<perm = [1, 0]>(h) {0} = Tanh(moved) back = Transpose<perm = [1, 0]>({0})
e0 = MatMul(back, a) two = Add({0}, {0}) {1} = Sigmoid(two) again = Transpose<perm = [1, 0]>({1}) e1 = MatMul(again, b)
"""


@pytest.mark.parametrize(
    "name", [TEMPERATURE_INPUT, "e0.readout", "e1.probabilities", "e0.readout.softmax", "e0.readout.two", "e1.exit"]
)
def test_a_value_may_have_the_name_of_a_readout_value(tmp_path, name):
    body = f'"{name}" = MatMul(x, a) e0 = Relu("{name}") t = Tanh("{name}") e1 = MatMul(t, c)'
    path = two_heads(tmp_path / "model.onnx", body)
    assert_file_composed(compile_bundle(path, tmp_path / "bundle"), path, ROWS)


def test_a_weight_may_have_the_name_of_a_readout_value(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) { BODY }'
    text = text.replace("BODY", 'e0 = MatMul(x, "e0.readout.two") r = Relu(x) e1 = MatMul(r, "edgeexit.temperature")')
    path = save_graph(tmp_path / "model.onnx", text, **{"e0.readout.two": (8, 3), TEMPERATURE_INPUT: (8, 3)})
    assert_file_composed(compile_bundle(path, tmp_path / "bundle"), path, ROWS)


@pytest.mark.parametrize("names", [("v", '"v.batch_first"'), ("v", '"v.back"'), ("v", '"v.batch_first.out"')])
def test_a_value_may_have_the_name_of_a_transposed_carry(tmp_path, names):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) { BODY }'
    text = text.replace("BODY", MOVED.format(*names))
    path = save_graph(tmp_path / "model.onnx", text, w=(8, 8), a=(8, 3), b=(8, 3))
    bundle = compile_bundle(path, tmp_path / "bundle")
    assert_file_composed(bundle, path, ROWS)
    carries = [name for names in carried(bundle) for name in names]
    assert len(carries) == len(set(carries)) == 1


@pytest.mark.parametrize("suffix", [READOUT_SUFFIX, PROBABILITIES_SUFFIX])
def test_an_input_or_exit_with_the_name_of_a_readout_is_rejected(tmp_path, suffix):
    body = f'z = Add(x, "e0{suffix}") e0 = MatMul(z, a) t = Tanh(z) e1 = MatMul(t, b)'
    path = two_heads(tmp_path / "input.onnx", body, inputs=f'float[N,8] x, float[N,8] "e0{suffix}"')
    with pytest.raises(CompileError, match=f"input 'e0{suffix}' has the name of a readout of exit 'e0'"):
        compile_bundle(path, tmp_path / "bundle")
    body = f't = Tanh(x) e0 = MatMul(x, a) "e0{suffix}" = MatMul(t, b)'
    path = two_heads(tmp_path / "exit.onnx", body, outputs=f'float[N,3] e0, float[N,3] "e0{suffix}"')
    with pytest.raises(CompileError, match=f"the name of exit 'e0{suffix}' ends in '{suffix}'"):
        compile_bundle(path, tmp_path / "bundle")


STRIDES = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,2,H,W] x) => (float[N,3] e0, float[N,3] e1, float[N,3] e2) {
  p = Conv<strides = [2, 2]>(x, k) a = Sigmoid(p) am = GlobalAveragePool(a) af = Flatten(am) e0 = MatMul(af, h)
  q = Conv<strides = [2, 2]>(a, k) b = Sigmoid(q) bm = GlobalAveragePool(b) bf = Flatten(bm) e1 = MatMul(bf, h)
  c = Conv(b, k) d = Add(x, x) cm = GlobalAveragePool(c) dm = GlobalAveragePool(d) s = Add(cm, dm) cf = Flatten(s)
  e2 = MatMul(cf, h)
}
"""


def test_unknown_dimensions_of_carries_get_unique_names(tmp_path):
    path = save_graph(tmp_path / "model.onnx", STRIDES, k=(2, 2, 2, 2), h=(2, 3))
    bundle = compile_bundle(path, tmp_path / "bundle", CompileOptions(inputs=["x:batch,2,30,20"]))
    first, second, _ = bundle.manifest.stages
    (a,), (b,) = first.carry_out, second.carry_out
    for carry in (a, b):
        assert carry.shape == ("batch", 2, f"{carry.name}.2", f"{carry.name}.3")
    assert bundle.manifest.inputs[0].shape == ("batch", 2, "H", "W")

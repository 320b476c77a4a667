"""Exits that are not given shallow to deep are sorted, with a warning."""

import numpy as np
import onnxruntime as ort
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.graphs import save_graph, two_heads
from tests.compiler.staged_run import run_stages
from tests.recorded_progress import RecordedProgress

EXITS = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (OUTPUTS) {
  h = MatMul(x, trunk0)
  shallow = MatMul(h, head0)
  r = Relu(h)
  g = MatMul(r, trunk1)
  t = Tanh(g)
  deep = MatMul(t, head1)
}
"""


@pytest.fixture
def model(tmp_path):
    """Write a model with the outputs in the given order."""

    def write(*outputs, text=EXITS):
        text = text.replace(
            "OUTPUTS", ", ".join(f"float[N,{3 if 'box' not in name else 8}] {name}" for name in outputs)
        )
        return save_graph(tmp_path / "model.onnx", text, trunk0=(8, 8), trunk1=(8, 8), head0=(8, 3), head1=(8, 3))

    return write


@pytest.fixture
def compiled(tmp_path):
    """Compile a model; return the bundle and the warnings."""

    def run(source, **options):
        progress = RecordedProgress()
        bundle = compile_bundle(source, tmp_path / "bundle", CompileOptions(**options), replace=True, progress=progress)
        return bundle, progress.warnings

    return run


def exits_of(bundle):
    return [stage.exit.name for stage in bundle.manifest.stages]


def assert_same_logits(bundle, path):
    inputs = {"x": np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)}
    staged = run_stages(bundle, inputs)
    full_model = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for name in exits_of(bundle):
        np.testing.assert_allclose(staged[name], full_model.run([name], inputs)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"exits": ["deep", "shallow"]}])
def test_exits_that_are_deep_first_are_sorted_with_a_warning(model, compiled, options):
    path = model("deep", "shallow")
    bundle, warnings = compiled(path, **options)
    (warning,) = warnings
    assert warning == (
        "exit 'shallow' needs 88 MACs, fewer than the 152 of exit 'deep' before it; "
        "the exits are sorted by depth: shallow,deep"
    )
    assert exits_of(bundle) == ["shallow", "deep"]
    assert [stage.macs for stage in bundle.manifest.stages] == [88, 88]
    assert_same_logits(bundle, path)


def test_exits_that_are_shallow_first_are_not_sorted(model, compiled):
    bundle, warnings = compiled(model("deep", "shallow"), exits=["shallow", "deep"])
    assert (exits_of(bundle), warnings) == (["shallow", "deep"], [])


def test_a_head_larger_than_the_last_layer_does_not_become_the_final_exit(compiled, tmp_path):
    text = """
    <ir_version: 9, opset_import: ["": 18]>
    g (float[N,8] x) => (float[N,3] early, float[N,3] final) {
      h = MatMul(x, trunk0)
      t = Tanh(h)
      g = MatMul(t, trunk1)
      e = Relu(g)
      c = MatMul(e, head0)
      early = MatMul(c, head1)
      f = Abs(g)
      final = MatMul(f, last)
    }
    """
    sizes = {"trunk0": (8, 64), "trunk1": (64, 8), "head0": (8, 3), "head1": (3, 3), "last": (8, 3)}
    bundle, warnings = compiled(save_graph(tmp_path / "larger.onnx", text, **sizes))
    assert (exits_of(bundle), warnings) == (["early", "final"], [])
    assert [stage.macs for stage in bundle.manifest.stages] == [1057, 24]


def test_an_exit_whose_nodes_a_deeper_exit_needs_is_sorted_before_it(compiled, tmp_path):
    path = two_heads(tmp_path / "nested.onnx", "y = MatMul(x, a) e0 = Tanh(y)", outputs="float[N,3] e0, float[N,3] y")
    bundle, warnings = compiled(path)
    assert warnings == [
        "exit 'y' needs only nodes that exit 'e0' before it needs, too; the exits are sorted by depth: y,e0"
    ]
    assert exits_of(bundle) == ["y", "e0"]
    assert_same_logits(bundle, path)


FOREIGN = EXITS.replace('"": 18', '"": 18, "com.microsoft": 1')


def test_exits_of_unknown_cost_keep_their_order(model, compiled):
    text = FOREIGN.replace("MatMul(h, head0)", "com.microsoft.FusedMatMul(h, head0)")
    bundle, warnings = compiled(model("deep", "shallow", text=text))
    assert (exits_of(bundle), warnings) == (["deep", "shallow"], [])


def test_exits_of_unknown_cost_are_sorted_if_one_needs_the_nodes_of_the_other(model, compiled):
    text = FOREIGN.replace("deep = MatMul(t, head1)", "s = com.microsoft.FusedMatMul(t, head1) deep = Add(s, shallow)")
    bundle, warnings = compiled(model("deep", "shallow", text=text))
    assert exits_of(bundle) == ["shallow", "deep"]
    assert "needs only nodes that exit 'deep' before it needs" in warnings[0]


def test_companions_and_accuracies_stay_with_their_exits(model, compiled):
    text = EXITS.replace("deep = ", "box1 = Relu(t) box0 = Tanh(h) deep = ")
    rng = np.random.default_rng(0)
    example = {"x": rng.standard_normal((40, 8)).astype(np.float32), "labels": rng.integers(0, 3, 40)}
    path = model("deep", "shallow", "box1", "box0", text=text)
    bundle, warnings = compiled(path, companions={"box": ["box1", "box0"]}, precision="fp16", example=example)
    assert "sorted by depth: shallow,deep" in warnings[0]
    assert [stage.companions["box"].name for stage in bundle.manifest.stages] == ["box0", "box1"]
    full_model = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = full_model.run(["shallow"], {"x": example["x"]})
    accuracy = (logits.argmax(axis=1) == example["labels"]).mean()
    assert bundle.manifest.fidelity.exits["shallow"].accuracy_fp32 == pytest.approx(accuracy)


PAIR = """
<ir_version: 9, opset_import: ["": 18, "local": 1]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  e0, e1 = local.Pair(x, head)
}
<domain: "local", opset_import: ["": 18]>
Pair (a, b) => (c, d) { c = MatMul(a, b) d = Tanh(c) }
"""


def test_two_results_of_one_node_cannot_both_be_exits(compiled, tmp_path):
    with pytest.raises(CompileError, match="exit 'e1' adds no node after 'e0': earlier exits need all of its nodes"):
        compiled(save_graph(tmp_path / "pair.onnx", PAIR, head=(8, 3)))

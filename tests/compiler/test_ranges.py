"""What a bundle for TensorRT says of sizes known only at run time."""

import numpy as np
import pytest

from edgeexit.compiler import compile_bundle
from edgeexit.errors import CompileError, EngineError
from tests.compiler.graphs import save_graph

TEXT = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,T,8] x) => (float[N,3] e0, float[N,3] e1) {
  c = Transpose<perm = [0, 2, 1]>(x) h = Conv<strides = [2], pads = [1, 1]>(c, w) p = ReduceMean<keepdims = 0>(h, axis)
  e0 = MatMul(p, head) r = Relu(h) s = Conv<pads = [1, 1]>(r, w) q = ReduceMax<keepdims = 0>(s, axis)
  e1 = MatMul(q, head) }"""
"""What crosses is half as long as the input."""


@pytest.fixture
def compiled(tmp_path):
    path = save_graph(tmp_path / "model.onnx", TEXT, w=(8, 8, 3), head=(8, 3), axis=np.array([2]))

    def make(target="nvidia-desktop", **options):
        notes = []
        return compile_bundle(path, tmp_path / "bundle", target=target, on_warning=notes.append, **options), notes

    return make


def test_ranges_of_what_crosses_follow_from_those_of_the_inputs(compiled):
    bundle, notes = compiled(dimensions={"T": (2, 16, 64)})
    (carry,) = bundle.manifest.stages[0].carry_out
    assert bundle.manifest.build_config.dimensions == {"T": (2, 16, 64), carry.shape[2]: (1, 8, 32)}
    assert not any("range" in note for note in notes)


def test_without_ranges_it_is_said_what_to_give(compiled):
    bundle, notes = compiled()
    assert bundle.manifest.build_config.dimensions == {}
    (note,) = (note for note in notes if "range" in note)
    assert "`edgeexit engines build` needs --dimension T=LEAST,OPTIMAL,MOST" in note
    assert "compiling with --dimension T=... puts all" in note


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dimensions": {"L": (1, 2, 3)}}, CompileError, "--dimension 'L': .* known only at run time are: 'T'"),
        ({"dimensions": {"T": (3, 2, 1)}}, EngineError, "the range of 'T' is 3,2,1"),
        ({"dimensions": {"T": (1, 2, 3)}, "target": "x86-cpu"}, CompileError, "only plans of TensorRT have ranges"),
    ],
)
def test_ranges_that_cannot_be_are_refused(compiled, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        compiled(**options)
    assert not (tmp_path / "bundle").exists()


def test_a_size_in_range_at_which_the_model_does_not_run_is_said(tmp_path):
    text = TEXT.replace("g (float[N,T,8] x)", "g (int64[N,T] ids)")
    text = text.replace("c = Transpose<perm = [0, 2, 1]>(x)", "v = Gather(words, ids) y = Add(v, places) "
                        "c = Transpose<perm = [0, 2, 1]>(y)")  # fmt: skip
    weights = {"words": (9, 8), "places": (1, 8), "w": (8, 8, 3), "head": (8, 3), "axis": np.array([2])}
    path = save_graph(tmp_path / "model.onnx", text.replace("pads = [1, 1]>(c", "pads = [0, 0]>(c"), **weights)
    with pytest.raises(CompileError, match="stage0 does not run on 'ids' 2x1"):
        compile_bundle(path, tmp_path / "bundle", target="nvidia-desktop", dimensions={"T": (1, 8, 9)})
